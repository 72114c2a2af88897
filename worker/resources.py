"""Where the data files that ship with Stocktake are, in a checkout and in a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def directory(name: str) -> Path:
    """The directory `name` ("sql" or "schedules"): inside the package when installed from a
    wheel, beside the package in a checkout."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
