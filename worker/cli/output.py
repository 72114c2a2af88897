"""How results look: tables on a terminal, one JSON document for programs."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from worker.findings import Progress as Report
from worker.findings import Run
from worker.settings import environment
from worker.state.tables import RunRow

_UNBROKEN: Final = 10_000
# Columns that give way where there is too little room. These take several lines …
_FOLDED: Final = frozenset({"changed", "detail", "events", "value"})
# … and these are cut short, since an id is recognised by how it begins. No other gives way.
_CUT: Final = frozenset(
    {"listing", "object", "integration", "install", "delivery", "endpoint", "address"}
)
_GOOD, _DOUBTFUL, _BAD = "green", "yellow", "red"
_COLOURS: Final[Mapping[str, str]] = {
    "ok": _GOOD, "unchanged": _GOOD, "delivered": _GOOD, "held": _DOUBTFUL, "partial": _DOUBTFUL,
    "rate_limited": _DOUBTFUL, "warning": _DOUBTFUL, "open": _DOUBTFUL, "failed": _BAD,
    "critical": _BAD, "dead": _BAD,
}  # fmt: skip
# What a customer calls a site must not steer the terminal of who looks at it.
_VISIBLE: Final = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}


def _width() -> int | None:
    """Nothing is cut in a pipe, where another program may look for it."""
    return None if sys.stdout.isatty() or "COLUMNS" in environment() else _UNBROKEN


console = Console(width=_width())


def emit(document: Any) -> None:
    """Prints one JSON document and nothing else."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def emit_line(document: Any) -> None:
    """Prints one JSON document on one line, at once."""
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    sys.stdout.flush()


def say(text: str, style: str = "") -> None:
    """Prints a sentence as it stands; a terminal breaks it where it must."""
    console.print(Text(text, style=style), soft_wrap=True)


def note(text: str) -> None:
    """Prints a line beside the answer, to stderr."""
    sys.stderr.write(f"{text}\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], empty: str = "nothing") -> None:
    """Prints rows; numbers to the right, times in UTC to the second."""
    if rows:
        console.print(_drawn(columns, rows))
    else:
        say(empty)


def answer(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints what a query answers; where its rows are too wide, a line for each of their values."""
    drawn = _drawn(columns, rows)
    roomy = console.options.update(max_width=_UNBROKEN)
    if not rows or console.measure(drawn, options=roomy).maximum <= console.width:
        table(columns, rows, "no rows")
        return
    for number, row in enumerate(rows, start=1):
        say(f"row {number}", style="dim")
        table(("column", "value"), list(zip(columns, row, strict=True)))


def _drawn(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for name, first in zip(columns, rows[0] if rows else columns, strict=True):
        numeric = isinstance(first, int | float) and not isinstance(first, bool)
        drawn.add_column(
            Text(name),
            justify="right" if numeric else "left",
            no_wrap=name not in _FOLDED | _CUT,
            overflow="fold" if name in _FOLDED else "ellipsis",
        )
    for row in rows:
        drawn.add_row(*(cell(value) for value in row))
    return drawn


def cell(value: Any) -> Text:
    """One value as a person reads it."""
    match value:
        case None:
            return Text("-", style="dim")
        case datetime():
            return Text(value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"))
        case float():
            return Text(f"{value:.2f}")
        case dict() | list() | tuple():
            return Text(msgspec.json.encode(value).decode())
        case _:
            return Text(str(value).translate(_VISIBLE), style=_COLOURS.get(str(value), ""))


def runs(done: Sequence[Run], *, dry: bool = False) -> None:
    """What a sync came to (`dry`: would come to), a line a listing; then what went wrong."""
    rows = [
        (
            run.source,
            run.scope if run.run_id else None,  # without a run nothing was walked
            run.outcome,
            proof(run),
            run.seen,
            events(run),
        )
        for run in done
    ]
    table(("source", "listing", "outcome", "proof", "seen", "events"), rows)
    whys = {why: run.outcome for run in done if (why := _why(run))}  # each is told once
    for why, outcome in whys.items():
        say(why, style=_COLOURS.get(outcome, ""))
    for run in done:
        if run.held:
            wait = "would wait for a person" if dry else "wait: `stocktake holds`"
            say(f"{run.held} absences of {run.source} {run.scope} {wait}", style=_DOUBTFUL)


def _why(run: Run) -> str | None:
    return run.error or (run.reason if run.outcome == "partial" else None)


def proof(run: Run | RunRow) -> str | None:
    """What the walk proves of absences; to read only what moved is not meant to prove any."""
    return run.certificate if run.mode == "full" else None


def events(run: Run) -> str:
    """Counts of what was recorded: "3 created, 1 deleted"."""
    counted = [f"{count} {verb}" for verb, count in run.counts.items() if count]
    return ", ".join(counted) or "-"


def run_document(run: Run) -> dict[str, Any]:
    """A run as `sync --json` tells it."""
    return {
        "run_id": run.run_id, "source": run.source, "scope": run.scope, "mode": run.mode,
        "outcome": run.outcome, "certificate": run.certificate, "requests": run.requests,
        "pages": run.pages, "seen": run.seen, "total": run.total, "events": run.events or {},
        "held": run.held, "suspects": run.suspects,
        "seconds": round((run.finished_at - run.started_at).total_seconds(), 3),
        "error": _why(run),
    }  # fmt: skip


@contextmanager
def progress(*, shown: bool = True) -> Iterator[Report]:
    """A bar per listing while it is walked; nothing where stderr is no terminal."""
    errors = Console(stderr=True)
    if not (shown and errors.is_terminal):
        yield lambda scope, seen, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=errors, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(scope: str, seen: int, total: int | None) -> None:
            if scope not in tasks:
                tasks[scope] = bars.add_task(scope)
            bars.update(tasks[scope], completed=seen, total=total)

        yield report
