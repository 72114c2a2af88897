"""Says what is wrong with the state store, in one line and without the secrets of its URL."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import URL
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError

from worker.errors import StocktakeError, StoreBusy, StoreDown, StoreUnusable

# What a server says that will let us in later; whatever else it says at the door is a refusal.
_SOON: Final = ("starting up", "shutting down", "recovery mode", "too many", "remaining connection")
_FULL: Final = frozenset({"53100", "53200"})  # its disk, its memory
_FULL_DISK: Final = "disk is full"
_CHECK: Final = "check data_dir, state_url and who owns them"


@contextmanager
def told(url: URL) -> Iterator[None]:
    """Raises StoreDown, StoreBusy or StoreUnusable for a fault of the store, and nothing else."""
    try:
        yield
    except DBAPIError as error:
        if not _is_of_the_store(error):
            raise
        raise fault(url, error) from None


def fault(url: URL, error: DBAPIError) -> StocktakeError:
    """What a person, or who tries again, is to know of an error of the driver."""
    said = str(error.orig)
    reason = _without_secrets(said.splitlines()[0] if said else type(error.orig).__name__, url)
    if url.get_backend_name() == "sqlite":
        if "locked" in said or "busy" in said:
            return StoreBusy(f"the state store is in use: {reason}; try again later")
        advice = "make room" if _FULL_DISK in said else _CHECK
        return StoreUnusable(f"cannot use the state store: {reason}; {advice}")
    state = getattr(error.orig, "sqlstate", None)
    if state in _FULL or (state is None and _is_refusal(said)):
        return StoreUnusable(f"cannot use the state store: {reason}; check state_url")
    return StoreDown(f"the state store does not answer: {reason}; try again later")


def _is_of_the_store(error: DBAPIError) -> bool:
    """Whether it is none of our statements: those of a defect keep their traceback."""
    if isinstance(error, OperationalError | InterfaceError) or type(error) is DatabaseError:
        return True
    return "invalid connection option" in str(error.orig)


def _is_refusal(said: str) -> bool:
    at_the_door = ("FATAL", "no password supplied", "invalid connection option")
    return any(each in said for each in at_the_door) and not any(soon in said for soon in _SOON)


def _without_secrets(text: str, url: URL) -> str:
    # No driver is known to quote them; but a message must not depend on that.
    secrets = [str(url.password or ""), *_passwords(url)]
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


def _passwords(url: URL) -> Iterator[str]:
    for key, value in url.query.items():
        if "password" in key:
            yield from (value,) if isinstance(value, str) else value
