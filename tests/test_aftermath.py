"""What is told after a sync: once, to whom it concerns."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from examples import NOON, OF_A, walk
from outposts import LOGIN
from receivers import STORE, endpoint
from sqlalchemy import text

from worker import aftermath, outcomes, relay
from worker.errors import RateLimited, SourceDown, SourceRefused, StocktakeError
from worker.findings import Brief, Plan, Proposal
from worker.settings import Settings, Source
from worker.state import connect

pytestmark = pytest.mark.slow  # each opens both stores

FARM, BARN = (
    Source.model_validate({"name": name, "dialect": "gestal", **LOGIN}) for name in ("farm", "barn")
)
REFUSED, DOWN = SourceRefused("farm answered 403"), SourceDown("farm: no answer")
LIMITED = RateLimited("farm answered 429", NOON)
NOTHING = Brief(STORE, 0, NOON, 0, (), {}, {})  # what a store knows that is new

Told = list[tuple[str, ...]]


@pytest.fixture
def office(tmp_path: Path) -> Iterator["Office"]:
    """Where syncs report to, with endpoints for all, for one source and for installs."""
    made = Office(tmp_path)
    yield made
    made.engine.dispose()


class Office:
    def __init__(self, folder: Path) -> None:
        endpoints = (
            endpoint("ops", events=("sync.*",)),
            endpoint("barn-ops", events=("*",), sources=("barn*",)),
            endpoint("both-ops", events=("sync.*",), sources=("?arm", "b*")),
            endpoint("crm"),
        )
        self.settings = Settings(data_dir=folder, sources=(FARM, BARN), endpoints=endpoints)
        self.engine = connect(f"sqlite:///{folder}/state.db")
        self.syncs = 0
        relay.register(self.engine, endpoints, STORE, 0, NOON)

    def sync(self, *errors: StocktakeError | None, source: Source = FARM) -> None:
        """A sync of as many listings ends so."""
        self.syncs += 1
        runs = [
            outcomes.run_of(
                source.name,
                replace(walk(f"installs/{number}"), run_id=f"run_{self.syncs}_{number}"),
                error,
                Plan(),
                {},
                NOON,
                NOON,
            )
            for number, error in enumerate(errors)
        ]
        aftermath.conclude(
            self.settings, self.engine, source, runs, whole=True, brief=NOTHING, requests=1
        )

    def told(self, columns: str = "type", where: str = "endpoint = 'ops'") -> Told:
        """What there is to deliver, in its order."""
        query = f"select {columns} from deliveries where {where} order by position"  # noqa: S608
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]


FAILED, RECOVERED = ("sync.failed",), ("sync.recovered",)


@pytest.mark.parametrize(
    ("syncs", "told"),
    [
        ([REFUSED, REFUSED], []),
        ([REFUSED, REFUSED, None, REFUSED, REFUSED], []),
        ([REFUSED, DOWN, REFUSED], [FAILED]),
        ([REFUSED] * 5, [FAILED]),
        ([REFUSED] * 3 + [None, None, REFUSED, None], [FAILED, RECOVERED]),
        (([REFUSED] * 3 + [None]) * 2, [FAILED, RECOVERED] * 2),
        ([REFUSED, LIMITED, REFUSED, LIMITED, REFUSED], [FAILED]),
        ([REFUSED] * 3 + [LIMITED], [FAILED]),
        ([REFUSED] * 3 + [LIMITED, None], [FAILED, RECOVERED]),
        ([LIMITED] * 4, []),
    ],
    ids=[
        "two failures are not told",
        "a success starts the count again",
        "the third in a row is told, whatever went wrong",
        "and no failure after it",
        "a recovery is told, if the failures were",
        "the next time both are told again",
        "a rate limit is neither a failure nor the end of them",
        "nor a recovery",
        "which comes after it",
        "rate limits alone are not told",
    ],
)
def test_failures_in_a_row_and_a_recovery_are_told_once(
    office: Office, syncs: list[StocktakeError | None], told: Told
) -> None:
    for error in syncs:
        office.sync(error)
    assert office.told() == told


def test_a_sync_of_which_one_listing_failed_has_failed(office: Office) -> None:
    for _ in range(3):
        office.sync(None, REFUSED, None)
    assert office.told() == [FAILED]


def test_failures_of_another_source_are_counted_apart(office: Office) -> None:
    for _ in range(2):
        office.sync(REFUSED)
        office.sync(REFUSED, source=BARN)
    assert office.told() == []
    office.sync(REFUSED)
    assert office.told("type, source") == [("sync.failed", "farm")]


def recover(office: Office) -> None:
    for error in (REFUSED, REFUSED, REFUSED, None):
        office.sync(error)


def hold(office: Office) -> None:
    held = Proposal(OF_A, "12 of 35 rows absent at once (34%)", ("ins_1", "ins_2"), 12 / 35)
    aftermath.record(office.settings, office.engine, FARM, [], Plan(holds=(held,)), NOON)


@pytest.mark.parametrize("happen", [recover, hold])
def test_a_notice_about_a_source_goes_to_those_who_want_its_type_and_that_source(
    office: Office, happen: Callable[[Office], None]
) -> None:
    happen(office)
    assert {name for (name,) in office.told("endpoint", where="true")} == {"ops", "both-ops"}
    assert {source for (source,) in office.told("source", where="true")} == {"farm"}
