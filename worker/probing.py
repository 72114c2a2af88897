"""Finds out what a keyset source accepts of what its documentation leaves open (SOURCES.md)."""

from datetime import datetime

from worker.client import Call, Client
from worker.dialects import Dialect
from worker.errors import SourceRefused
from worker.findings import Accepted
from worker.models import INSTALLS, After, Page
from worker.payloads import decoded

_ROWS = 20  # enough to see an order, or rows outside of a range


def probe(client: Client, dialect: Dialect) -> Accepted:
    """What `client` accepts; an answer that ignores what was asked counts as a refusal."""
    if dialect.PAGING != "keyset":
        return Accepted()
    listed = _page(client, dialect, After(None, _ROWS))
    return Accepted(
        newest_first=next(
            (each for each in dialect.NEWEST_FIRST if _sorts(client, dialect, each)), None
        ),
        filters=_filters(client, dialect, listed),
    )


def _sorts(client: Client, dialect: Dialect, direction: str) -> bool:
    page = _page(client, dialect, After(None, _ROWS, newest=f"installedAt {direction}"))
    if page is None:
        return False
    times = [dialect.install(decoded(row.raw), None).installed_at for row in page.rows]
    known: list[datetime] = [time for time in times if time is not None]
    return known == sorted(known, reverse=True)


def _filters(client: Client, dialect: Dialect, listed: Page | None) -> bool:
    ids = sorted(row.id for row in listed.rows) if listed else []
    if len(ids) < 2:
        return False
    lower, upper = ids[len(ids) // 2], ids[-1]
    page = _page(client, dialect, After(None, _ROWS, lower, upper))
    return page is not None and all(lower <= row.id < upper for row in page.rows)


def _page(client: Client, dialect: Dialect, ask: After) -> Page | None:
    """The answer, or None where the source does not accept the request (400)."""
    request = dialect.request(INSTALLS, ask)
    try:
        return client.send(Call(request, lambda body: dialect.read(INSTALLS, ask, body)))
    except SourceRefused as error:
        if error.status in (400, 422):
            return None
        raise
