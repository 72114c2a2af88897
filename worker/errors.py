"""Every error that Stocktake raises on purpose.

StocktakeError
├── RetryLater                the same call may succeed later: exit 75
│   ├── RateLimited           the source said 429; carries until when
│   ├── SourceDown            time-out, reset, 5xx or an unusable body, after all retries
│   │   └── UnusableBody      an answer that is not as documented
│   ├── StoreBusy             another process holds the DuckDB file or the lease
│   ├── StoreDown             the server of the state store does not answer
│   └── Stopped               asked to stop between two pages
└── Refused                   a person must look: exit 1
    ├── ConfigInvalid         wrong usage or configuration: exit 2
    ├── SourceRefused         the source said no: wrong login, no access, wrong address
    ├── NotListed             the source knows no such scope or object (404)
    ├── StoreUnusable         a store cannot be opened or written
    │   ├── StoreOlder        it has the schema of an older Stocktake
    │   └── StoreNewer        it has the schema of a newer Stocktake: exit 2
    └── CursorMismatch        the event log is not the one that deliveries were made from
"""

from collections.abc import Sequence
from datetime import datetime


class StocktakeError(Exception):
    """A message for a person: what, where, which value, what to do."""

    exit_code = 1


class RetryLater(StocktakeError):
    """Nothing is wrong that time does not heal; `wait_s` says how many seconds, if known."""

    exit_code = 75

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class RateLimited(RetryLater):
    """The source asked for quiet until a moment."""

    def __init__(self, message: str, until: datetime, wait_s: float | None = None) -> None:
        super().__init__(message, wait_s)
        self.until = until


class SourceDown(RetryLater):
    """The source did not give a usable answer, after all retries."""


class UnusableBody(SourceDown):
    """An answer is not as documented. The message never quotes it."""


class StoreBusy(RetryLater):
    """Another process is at work in the store or on the source."""


class StoreDown(RetryLater):
    """The server of the state store does not answer."""


class Stopped(RetryLater):
    """The process was asked to stop."""


class Refused(StocktakeError):
    """Trying again changes nothing until a person acts."""


class ConfigInvalid(Refused):
    """The configuration or the command line is wrong; carries every problem found."""

    exit_code = 2

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where, self.problems = where, tuple(problems)
        super().__init__("\n".join([where, *(f"  {problem}" for problem in problems)]))


class SourceRefused(Refused):
    """The source answered, and the answer is no; `status` is the HTTP status."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class NotListed(Refused):
    """The source answered 404: it knows no such scope or object."""


class StoreUnusable(Refused):
    """A store cannot be opened or written as it is."""


class StoreOlder(StoreUnusable):
    """A store has the schema of an older Stocktake."""

    def __init__(self, what: str, found: int, known: int) -> None:
        super().__init__(
            f"{what} has schema {found}, this stocktake works with {known}; "
            "`stocktake migrate` brings it up (and keeps a copy of how it was)"
        )


class StoreNewer(StoreUnusable):
    """A store has the schema of a newer Stocktake."""

    exit_code = 2

    def __init__(self, what: str, written_by: str | None, found: int, known: int) -> None:
        super().__init__(
            f"{what} was written by stocktake ≥ {written_by or 'this one'} (schema {found}, "
            f"this one knows {known}); upgrade stocktake"
        )


class CursorMismatch(Refused):
    """Deliveries were made from another event log than the one at hand."""
