"""What the walks of one sync bring home, and what is asked for beside the listings."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from platforms import Unhurried, World, mount_of, source_at

from worker import clock, dialects, harvest
from worker.budget import Budget
from worker.client import Client, Manners
from worker.errors import NotListed, RateLimited, SourceDown, SourceRefused, Stopped, UnusableBody
from worker.findings import Accepted, Brief
from worker.harvest import Field, Reaped
from worker.knowledge import Knowledge
from worker.models import INSTALLS, INTEGRATIONS, Kind
from worker.sandbox.aeontel_world import AeontelWorld
from worker.sandbox.calls import Call
from worker.sandbox.faults import Fault
from worker.sandbox.gestal_world import GestalWorld
from worker.sandbox.seeding import aeontel_world, gestal_world
from worker.sandbox.server import Sandbox, serve
from worker.settings import Source
from worker.walking import Guide, Observed

States = Mapping[Kind, Mapping[str, str]]  # per kind the state of each known id


class Known(Knowledge):
    """What a test says is known, without stores; `accepted_now` is what the walks found out."""

    def __init__(self, source: Source, states: States, round: int) -> None:
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "states", states)
        integrations = states.get("integration", {}).items()
        active = tuple(id for id, state in integrations if state == "active")
        brief = Brief("st_1", 1, clock.now(), round, active, active={}, suspects={})
        object.__setattr__(self, "brief", brief)

    states: States

    def absent(self, spools: Mapping[Path, int]) -> list[tuple[str, str]]:
        came = {line["id"] for line in lines(spools)}
        states = self.states.get("install", {}).items()
        return sorted(
            ((id, state) for id, state in states if id not in came), key=lambda pair: pair[1]
        )

    def parallel(self, scope: str) -> int:
        return 1

    def accepted(self) -> Accepted:
        return Accepted()

    def is_probed(self) -> bool:
        return True


@dataclass(slots=True)
class Place:
    """A platform, and a field to walk on it as often as a test likes."""

    world: World
    sandbox: Sandbox
    folder: Path
    stack: ExitStack
    walked: list[tuple[str, int]] = field(default_factory=list)  # progress: scope, rows seen

    @property
    def requests(self) -> list[tuple[str, str]]:
        return self.sandbox.requests[mount_of(self.world)]

    def spent(self, of: str = "") -> int:
        """How many requests there were whose target has `of`."""
        return sum(of in target for _, target in self.requests)

    def field(
        self,
        known: States | None = None,
        stop: threading.Event | None = None,
        round: int = 7,
        **fields: Any,
    ) -> Field:
        """A field as a sync makes it; `known` are the objects that the store would hold."""
        source = source_at(self.world, self.sandbox.at(mount_of(self.world)), **fields)
        dialect = dialects.named(source.dialect)
        manners = Manners(dialect.ACCEPT, dialect.login(), dialect.read_token, dialect.PENALTY_S)
        budget = Budget(self.folder / "budgets", source.name, 0, source.max_concurrency)
        client = Client(source, manners, budget, stop or Unhurried())
        self.stack.callback(client.close)

        def progress(scope: str, seen: int, total: int | None) -> None:
            self.walked.append((scope, seen))

        return Field(
            source=source,
            guide=Guide(source, dialect, client, Observed(clock.now(), clock.now()), progress),
            folder=self.folder / "spool",
            run_id=lambda scope: f"run of {scope}",
            knowledge=Known(source, known or {}, round),
        )


def lines(spools: Iterable[Path]) -> list[dict[str, Any]]:
    return [
        msgspec.json.decode(line)
        for path in spools
        if path.exists()
        for line in path.read_bytes().splitlines()
    ]


def brought(ground: Field, kind: Kind = "install") -> dict[str, Any]:
    """The latest spooled row of each object; None for a 404."""
    return {line["id"]: line["row"] for line in lines(ground.files) if line["kind"] == kind}


def summary(reaped: Sequence[Reaped]) -> list[tuple[str, str]]:
    return [(each.walk.scope, each.walk.walked.certificate) for each in reaped]


@pytest.fixture
def placed(tmp_path: Path) -> Iterator[Callable[[World], Place]]:
    with ExitStack() as stack:

        def placed(world: World) -> Place:
            served = {f"{mount_of(world)}_world": world}
            sandbox = stack.enter_context(serve(**served))  # type: ignore[arg-type]
            return Place(world, sandbox, tmp_path, stack)

        yield placed


@pytest.fixture
def farm(placed: Callable[[World], Place]) -> Place:
    return placed(gestal_world(integrations=2, installs=25))


@pytest.fixture
def voice(placed: Callable[[World], Place]) -> Place:
    return placed(aeontel_world(integrations=2, installs=25))


def gestal_ids(farm: Place) -> list[str]:
    assert isinstance(farm.world, GestalWorld)
    return list(farm.world.integrations)


def soft(world: World) -> AeontelWorld:
    assert isinstance(world, AeontelWorld)
    return world


# Which scopes


def test_integrations_come_first_and_then_the_installs_of_each(farm: Place) -> None:
    ground = farm.field(page_size=10)
    new, old = reversed(gestal_ids(farm))
    assert summary(ground.reap("full")) == [
        (INTEGRATIONS, "pristine"),
        (f"installs/{new}", "pristine"),
        (f"installs/{old}", "pristine"),
    ]
    rows = farm.world.listed()
    assert brought(ground, "integration") == {r["cloud_id"]: r for r in rows["integrations"]}
    assert len(brought(ground)) == 50
    assert (f"installs/{new}", 25) in farm.walked


def test_all_installs_of_aeontel_are_one_scope(voice: Place) -> None:
    ground = voice.field(page_size=20)
    assert summary(ground.reap("full")) == [(INTEGRATIONS, "keyset"), (INSTALLS, "keyset")]
    assert brought(ground) == soft(voice.world).installs


def test_wanted_scopes_are_walked_alone(farm: Place) -> None:
    scope = f"installs/{gestal_ids(farm)[0]}"
    assert summary(farm.field().reap("full", [scope])) == [(scope, "pristine")]
    assert farm.spent("/integrations?") == 0


def test_only_configured_integrations_are_walked_and_kept(farm: Place, voice: Place) -> None:
    wanted = gestal_ids(farm)[0]
    ground = farm.field(integrations=(wanted,))
    assert summary(ground.reap("full")) == [
        (INTEGRATIONS, "pristine"),
        (f"installs/{wanted}", "pristine"),
    ]
    assert set(brought(ground, "integration")) == {wanted}

    wanted = next(iter(soft(voice.world).integrations))
    ground = voice.field(integrations=(wanted,))
    ground.reap("full")
    assert set(brought(ground, "integration")) == {wanted}
    assert {row["integrationId"] for row in brought(ground).values()} == {wanted}


def test_installs_of_an_integration_that_only_we_know_are_walked_too(farm: Place) -> None:
    # The listing of integrations failed: what is known serves instead.
    known: States = {"integration": dict.fromkeys(gestal_ids(farm), "active")}
    farm.world.faults.add(Fault("server_error", times=None, match="/integrations?"))
    reaped = farm.field(known).reap("full")
    assert isinstance(reaped[0].error, SourceDown)
    assert [certificate for _, certificate in summary(reaped)] == ["none", "pristine", "pristine"]


def test_after_a_refused_login_nothing_more_is_asked(farm: Place) -> None:
    known: States = {"integration": dict.fromkeys(gestal_ids(farm), "active")}
    (only,) = farm.field(known, password="guessed").reap("full")
    assert isinstance(only.error, SourceRefused)
    assert farm.requests == [("POST", "/auth")]


def test_after_a_login_was_refused_half_way_no_other_scope_is_asked(farm: Place) -> None:
    farm.world.faults.add(Fault("unauthorized", times=None, match="installations"))
    reaped = farm.field().reap("full")
    assert [isinstance(each.error, SourceRefused) for each in reaped] == [False, True]
    assert farm.requests.count(("POST", "/auth")) == 2


def test_a_scope_without_access_leaves_the_others_alone(farm: Place) -> None:
    farm.world.faults.add(Fault("forbidden", match="installations"))
    reaped = farm.field().reap("full")
    assert [isinstance(each.error, SourceRefused) for each in reaped] == [False, True, False]


def test_a_scope_that_fails_leaves_the_others_alone(farm: Place) -> None:
    broken, whole = reversed(gestal_ids(farm))
    farm.world.faults.add(Fault("html", times=None, match=broken))
    reaped = farm.field().reap("full")
    assert [type(each.error) for each in reaped] == [type(None), UnusableBody, type(None)]
    assert reaped[1].walk.walked.reason == str(reaped[1].error)
    assert reaped[2].walk.scope == f"installs/{whole}"


def test_a_scope_that_the_source_does_not_know_is_told_so(farm: Place) -> None:
    (only,) = farm.field().reap("full", ["installs/none"])
    assert isinstance(only.error, NotListed)


def test_after_a_rate_limit_no_scope_asks_any_more(farm: Place) -> None:
    farm.world.faults.add(Fault("rate_limited", after=1, match="page=1"))
    reaped = farm.field().reap("full")
    assert [isinstance(each.error, RateLimited) for each in reaped] == [False, True, True]
    assert farm.spent("page=") == 2


# Going on


class StopAt(Unhurried):
    """A stop that comes with the n-th request for a page."""

    def __init__(self, world: World, nth: int) -> None:
        super().__init__()
        self.left = nth
        world.before_request = self.count

    def count(self, world: World, call: Call) -> None:
        self.left -= call.lists
        if not self.left:
            self.set()


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_an_interrupted_walk_goes_on_where_it_was_and_is_never_pristine(
    nth: int, farm: Place
) -> None:
    scope = f"installs/{gestal_ids(farm)[0]}"
    (stopped,) = farm.field(stop=StopAt(farm.world, nth), page_size=5).reap("full", [scope])
    assert isinstance(stopped.error, Stopped)
    began = len(farm.requests)
    (resumed,) = (ground := farm.field(page_size=5)).reap("full", [scope])
    assert resumed.walk.walked.certificate == "repaired"
    assert len(brought(ground)) == 25
    pages = [target for _, target in farm.requests[began:] if "page=" in target]
    assert f"page={nth}&" not in pages[0]
    assert f"page={nth + 1}&" in pages[0]
    # 5 pages and a look at the first two again: what was read before is not read twice.
    assert len(pages) + nth == resumed.walk.walked.requests

    (fresh,) = farm.field(page_size=5).reap("full", [scope])
    assert fresh.walk.walked.certificate == "pristine"


def test_a_resumed_walk_counts_from_when_it_first_began(farm: Place) -> None:
    scope = f"installs/{gestal_ids(farm)[0]}"
    before = farm.field(stop=StopAt(farm.world, 2), page_size=5)
    before.reap("full", [scope])
    after = farm.field(round=9, page_size=5)  # by now: the old pages know nothing of those commits
    (resumed,) = after.reap("full", [scope])
    assert resumed.walk.round == 7
    assert after.began_at == before.began_at


def test_a_walk_along_cursors_goes_on_too(voice: Place) -> None:
    stop = StopAt(voice.world, 2)
    voice.field(stop=stop, page_size=10).reap("full", [INSTALLS])
    began = len(voice.requests)
    ((_, certificate),) = summary((ground := voice.field(page_size=10)).reap("full", [INSTALLS]))
    assert certificate == "keyset"
    assert len(voice.requests) - began == 3
    assert brought(ground) == soft(voice.world).installs


def test_a_walk_with_another_page_size_begins_anew(farm: Place) -> None:
    scope = f"installs/{gestal_ids(farm)[0]}"
    farm.field(stop=StopAt(farm.world, 2), page_size=5).reap("full", [scope])
    ((_, certificate),) = summary(farm.field(page_size=10).reap("full", [scope]))
    assert certificate == "pristine"


def test_what_an_interrupted_walk_read_is_brought_home(farm: Place) -> None:
    ground = farm.field(stop=StopAt(farm.world, 2), page_size=5)
    ground.reap("full", [f"installs/{gestal_ids(farm)[0]}"])
    assert len(brought(ground)) == 10


# Absences


def test_an_integration_that_is_not_listed_is_asked_for_and_its_404_kept(farm: Place) -> None:
    known: States = {"integration": {**dict.fromkeys(gestal_ids(farm), "active"), "gone": "active"}}
    ground = farm.field(known)
    assert [scope for scope, _ in summary(ground.reap("full"))] == [
        INTEGRATIONS,
        *(f"installs/{id}" for id in reversed(gestal_ids(farm))),
    ]
    assert brought(ground, "integration")["gone"] is None
    assert ground.gone == {"gone"}


def test_a_missing_installation_of_gestal_cannot_be_asked_for(farm: Place) -> None:
    known: States = {"install": {"gone": "active"}}
    ground = farm.field(known)
    ground.reap("full", [f"installs/{gestal_ids(farm)[0]}"])
    assert "gone" not in brought(ground)
    assert farm.spent("gone") == 0


def test_absent_installs_are_asked_for_together_and_then_one_by_one(voice: Place) -> None:
    world = soft(voice.world)
    purged, deleted = list(world.live())[:2]
    known: States = {"install": dict.fromkeys(world.installs, "active")}
    world.uninstall(purged)
    world.purge(purged)
    world.lists_deleted = False
    world.uninstall(deleted)
    hidden = {id for id, row in world.installs.items() if row["deletedAt"]}
    ground = voice.field(known)
    assert summary(ground.reap("full", [INSTALLS])) == [(INSTALLS, "keyset")]
    assert brought(ground)[purged] is None
    assert brought(ground)[deleted]["deletedAt"]
    assert ground.gone == {purged}
    assert voice.spent("ids=") == 1
    assert voice.spent("integration-installs/") == len(hidden) + 1


def test_only_some_known_deleted_rows_are_asked_for_again(voice: Place) -> None:
    deleted = {f"del_{n}": "deleted" for n in range(harvest.RECHECKED + 50)}
    ground = voice.field({"install": deleted})
    ground.reap("full", [INSTALLS])
    assert voice.spent("integration-installs/") == harvest.RECHECKED
    assert ground.gone == set()  # they were no active ones


def test_an_absent_row_that_is_active_after_all_costs_the_certificate(voice: Place) -> None:
    # A page lost one of its rows, and nothing in it shows that.
    known: States = {"install": dict.fromkeys(soft(voice.world).live(), "active")}
    voice.world.faults.add(Fault("short_page", match="limit=100"))
    ground = voice.field(known)
    (reaped,) = ground.reap("full", [INSTALLS])
    assert reaped.walk.walked.certificate == "none"
    assert reaped.walk.walked.reason == "1 active rows exist that the listing did not show"
    assert not reaped.walk.proves_absence
    assert ground.gone == set()


def test_without_a_certificate_nobody_is_asked_for(voice: Place) -> None:
    voice.world.faults.add(Fault("empty_page", times=None))
    (reaped,) = voice.field({"install": {"gone": "active"}}).reap("full", [INSTALLS])
    assert reaped.walk.walked.certificate == "none"
    assert voice.spent("gone") == 0


# What is kept of a row


def test_secrets_are_blotted_out_before_anything_is_written(voice: Place) -> None:
    ground = voice.field(redact=("variables.api_key", "installedBy"))
    ground.reap("full")
    rows = brought(ground).values()
    assert {row["variables"]["api_key"] for row in rows} == {"[redacted]"}
    assert {row["installedBy"] for row in rows} == {"[redacted]"}
    spooled = b"".join(path.read_bytes() for path in voice.folder.rglob("*") if path.is_file())
    assert b"sk_" not in spooled


def test_a_row_whose_secret_alone_differs_has_the_same_digest(voice: Place) -> None:
    def digests() -> dict[str, str]:
        ground = voice.field(redact=("variables.api_key",))
        ground.reap("full", [INSTALLS])
        return {line["id"]: line["digest"] for line in lines(ground.files)}

    before = digests()
    world = soft(voice.world)
    first, second = list(world.live())[:2]
    world.update(first, variables={**world.installs[first]["variables"], "api_key": "sk_new"})
    world.update(second, variables={**world.installs[second]["variables"], "limit": 1_000_000})
    after = digests()
    assert {id for id in before if before[id] != after[id]} == {second}


def test_pages_that_were_spooled_before_a_path_was_redacted_are_not_gone_on_with(
    voice: Place,
) -> None:
    voice.field(stop=StopAt(voice.world, 2), page_size=10).reap("full", [INSTALLS])
    ground = voice.field(page_size=10, redact=("variables.api_key",))
    ground.reap("full", [INSTALLS])
    rows = brought(ground).values()
    assert {row["variables"]["api_key"] for row in rows} == {"[redacted]"}


def test_pages_of_another_account_are_not_gone_on_with(voice: Place) -> None:
    soft(voice.world).tokens.add("another")
    voice.field(stop=StopAt(voice.world, 2), page_size=10).reap("full", [INSTALLS])
    voice.world.access.other_account()
    ground = voice.field(page_size=10, token="another")
    ground.reap("full", [INSTALLS])
    assert brought(ground) == {}
