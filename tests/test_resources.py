"""The data files are found in a checkout and in a wheel."""

from pathlib import Path

import pytest

from worker import resources


def test_schedules_are_found() -> None:
    assert (resources.directory("schedules") / "default.toml").is_file()


@pytest.mark.parametrize("package", ["checkout/worker", "site-packages/worker"])
def test_data_inside_the_package_goes_before_data_beside_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / package
    data = home / "sql" if "site-packages" in package else home.parent / "sql"
    home.mkdir(parents=True)
    (tmp_path / "site-packages" / "sql").mkdir(parents=True)  # another distribution's
    data.mkdir(exist_ok=True)
    monkeypatch.setattr(resources, "_PACKAGE", home)

    assert resources.directory("sql") == data
