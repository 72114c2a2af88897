"""What must hold after any crash: stores that open and agree, with each other and the source."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from killing import HANG_S, wait_for
from platforms import World, source_rows
from sqlalchemy import text
from weather import Arrival, Weather

from worker import warehouse
from worker.settings import Settings
from worker.state import connect_state
from worker.warehouse import connection

# Installs whose newest event, or whose kept revisions, do not lead to what the snapshot says. All
# that makes an install active, or ends it, is told; a change of one that is deleted is not.
TORN = """
    with newest as (
        select
            install_id,
            max(revision) as revision,
            arg_max(after->>'state', sequence) as state
        from events where install_id is not null group by all
    ),
    superseded as (select install_id, count(*) as kept from install_revisions group by all)
    select install_id
    from installs
    left join newest using (install_id)
    left join superseded using (install_id)
    where
        (installs.state = 'active' and newest.revision is distinct from installs.revision)
        or newest.state <> installs.state
        or coalesce(superseded.kept, 0) <> installs.revision - 1
"""


def check_store(settings: Settings) -> None:
    """It opens; no event is missing, or there twice; snapshot, history and events agree."""
    with connection.connect(settings.store_path, datetime.now(UTC)) as store:
        events = store.execute("select sequence, event_id from events order by all").fetchall()
        torn = store.execute(TORN).fetchall()
    assert [sequence for sequence, _ in events] == list(range(1, len(events) + 1))
    assert len({id for _, id in events}) == len(events)
    assert torn == []


def check_snapshot(settings: Settings, world: World, source: str) -> None:
    """The snapshot is the source row by row, and the newest event of each install says the same."""
    assert untold(settings, world, source) == set()


def check_deliveries(settings: Settings) -> None:
    """Every event that is no baseline is one delivery."""
    events = [id for (id,) in asked(settings, "select event_id from events where not baseline")]
    engine = connect_state(settings)
    with engine.connect() as state:
        made = Counter(state.execute(text("select event_id from deliveries")).scalars())
    engine.dispose()
    assert {id: n for id, n in made.items() if id.startswith("evt_")} == dict.fromkeys(events, 1)


def asked(settings: Settings, query: str) -> tuple[tuple[Any, ...], ...]:
    """What analysts get."""
    return warehouse.ask(settings.published_path, query).rows


@dataclass(frozen=True, slots=True)
class Reckoning:
    """What went wrong, counted. All of it must be 0."""

    events_lost: int  # numbers without an event, and installs whose state was never told
    events_doubled: int
    false_deletions: int  # more often told than it happened
    not_delivered: int
    deliveries_doubled: int
    arrivals_unexplained: int  # after the receiver had taken it, and nobody was killed meanwhile
    out_of_order: int  # installs


def reckoned(
    settings: Settings, weather: Weather, kills: Sequence[tuple[float, str]]
) -> tuple[Reckoning, dict[str, int]]:
    """What went wrong, and how much there was of everything."""
    events = asked(settings, "select sequence, event_id, install_id, type, baseline from events")
    deliveries = _deliveries(settings)
    arrivals = [each for each in weather.flaky.arrivals if each.webhook_id.startswith("evt_")]
    due = {id for _, id, _, _, baseline in events if not baseline}
    delivered = {id for id, state in deliveries if state == "delivered"}
    taken = {each.webhook_id for each in arrivals if each.status == 204}
    deletions = Counter(install for _, _, install, type, _ in events if type == "install.deleted")
    wrong = Reckoning(
        events_lost=max(sequence for sequence, *_ in events) - len(events)
        + sum(len(untold(settings, world, name)) for name, world in weather.worlds.items()),
        events_doubled=len(events) - len({id for _, id, *_ in events}),
        false_deletions=(deletions - weather.uninstalls).total(),
        not_delivered=len(due - (delivered & taken)),
        deliveries_doubled=len(deliveries) - len({id for id, _ in deliveries}),
        arrivals_unexplained=_unexplained(arrivals, [at for at, _ in kills]),
        out_of_order=len(_out_of_order(arrivals)),
    )  # fmt: skip
    sizes = {"changes": weather.changes, "events": len(events), "delivered": len(delivered),
             "requests": len(arrivals), "deletions": deletions.total()}  # fmt: skip
    return wrong, sizes


def _deliveries(settings: Settings) -> list[tuple[str, str]]:
    engine = connect_state(settings)
    with engine.connect() as state:
        rows = state.execute(text("select event_id, state from deliveries")).all()
    engine.dispose()
    return [(id, state) for id, state in rows if id.startswith("evt_")]


def untold(settings: Settings, world: World, source: str) -> set[str]:
    """Installs of which the snapshot, or the newest event, says something else than the source."""
    live = {id: row for id, row in source_rows(world).items() if not row.get("deletedAt")}
    kept = asked(settings, "select source, install_id, payload from active_installs")
    told = asked(
        settings,
        "select source, install_id, arg_max(after->>'state', sequence),"
        " arg_max(after->'payload', sequence)"
        " from events where install_id is not null group by all",
    )
    return _differing(live, ((id, row) for of, id, row in kept if of == source)) | _differing(
        live, ((id, row) for of, id, state, row in told if of == source and state == "active")
    )


def _differing(live: Mapping[str, Any], rows: Iterable[tuple[str, str]]) -> set[str]:
    found = {id: msgspec.json.decode(row) for id, row in rows}
    return {id for id in live.keys() | found.keys() if live.get(id) != found.get(id)}


def _unexplained(arrivals: Sequence[Arrival], kills: Sequence[float]) -> int:
    """Requests for what the receiver had taken already, with no kill since the request before."""
    taken: dict[str, float] = {}
    unexplained = 0
    for each in arrivals:
        before = taken.get(each.webhook_id)
        if before is not None and not any(before - 0.5 <= at <= each.at for at in kills):
            unexplained += 1
        if each.status == 204:
            taken[each.webhook_id] = each.at
    return unexplained


def _out_of_order(arrivals: Sequence[Arrival]) -> set[str]:
    """Installs whose events came in another order first, or not with the newest one last."""
    first: dict[str, list[int]] = defaultdict(list)
    last: dict[str, int] = {}
    for each in arrivals:
        if each.install is not None and each.sequence is not None:
            if each.sequence not in first[each.install]:
                first[each.install].append(each.sequence)
            last[each.install] = each.sequence
    return {
        install
        for install, numbers in first.items()
        if numbers != sorted(numbers) or last[install] != numbers[-1]
    }


def as_figures(wrong: Reckoning, sizes: Mapping[str, int]) -> dict[str, int]:
    """Both in one line of figures."""
    return {**sizes, **asdict(wrong)}


def settle(settings: Settings, around: Weather) -> float:
    """Until the daemon, by itself, has the snapshot equal to the source and everything delivered;
    the claims of a deliverer that was killed have to lapse first."""
    engine = connect_state(settings)

    def is_done() -> bool:
        # In this order: what is published has its deliveries.
        if not settings.published_path.exists() or any(
            untold(settings, world, name) for name, world in around.worlds.items()
        ):
            return False
        with engine.connect() as state:
            query = "select count(*) from deliveries where state in ('pending', 'in_flight')"
            return state.execute(text(query)).scalar_one() == 0

    try:
        return wait_for(is_done, 10 * HANG_S, "all is told and delivered", every_s=0.5)
    finally:
        engine.dispose()
