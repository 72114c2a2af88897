"""The promise, kept by the whole product: no live install deleted, nothing lost, nothing twice."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import pytest
from mirrors import single_pass
from platforms import World
from promises import LISTINGS, archive
from worlds import FOOLING, NATURAL

from worker import routes
from worker.sandbox.aeontel_world import AeontelWorld
from worker.sandbox.gestal_world import GestalWorld
from worker.walk import Steps


def gestal(random: Random) -> World:
    return GestalWorld(seed=random.getrandbits(32))


def aeontel(random: Random) -> World:
    return AeontelWorld(
        seed=random.getrandbits(32),
        lists_deleted=random.random() < 0.5,
        accepts_filter=random.random() < 0.7,
        accepts_order_by=random.random() < 0.8,
        total_mode=random.choice(("exact", "unfiltered", "missing")),
    )


MADE: Mapping[str, Callable[[Random], World]] = {"gestal": gestal, "aeontel": aeontel}
ACCOUNTS = {"gestal": 24 // LISTINGS, "aeontel": 8}  # of a chapter: 24 and 8 histories
CHAPTERS = [*(("gestal", n) for n in range(21)), *(("aeontel", n) for n in range(63))]  # 504 each


def play(folder: Path, dialect: str, chapter: object, accounts: int) -> Counter[str]:
    """What the histories of so many accounts told, every third of them out to fool the walk."""
    counts: Counter[str] = Counter()
    with archive(folder) as shelf:
        for number in range(accounts):
            name = f"{dialect}_{chapter}_{number}"
            world, adversaries = MADE[dialect](Random(name)), NATURAL if number % 3 else FOOLING
            counts += shelf.play(name, world, tuple(adversaries))
    return counts


@pytest.mark.slow
def test_no_listing_of_gestal_has_a_false_deletion_or_a_lost_change(tmp_path: Path) -> None:
    counts = play(tmp_path, "gestal", "a", accounts=3)
    assert counts["install.deleted"] > 0
    assert counts["install.restored"] > 0
    assert counts["full repaired ok"] > 0
    assert counts["incremental none ok"] > 0


@pytest.mark.slow
def test_no_account_of_aeontel_has_a_false_deletion_or_a_lost_change(tmp_path: Path) -> None:
    counts = play(tmp_path, "aeontel", "a", accounts=8)
    assert counts["install.deleted"] > 0
    assert counts["install.restored"] > 0
    assert counts["install.purged"] > 0
    assert counts["incremental none ok"] > 0


@pytest.mark.slow
def test_the_oracle_catches_a_product_that_walks_as_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def walk_once(size: int, *others: object) -> Steps:
        return single_pass(size)

    def play_on() -> None:
        with archive(tmp_path) as shelf:
            for name in map(str, range(12)):
                shelf.play(name, gestal(Random(name)), ("shift",))

    monkeypatch.setattr(routes, "numbered_full", walk_once)
    with pytest.raises(AssertionError, match="a row that was live ever since"):
        play_on()


@pytest.mark.slow
@pytest.mark.parametrize(("dialect", "chapter"), CHAPTERS)
def test_many_histories_have_no_false_deletion_and_no_lost_change(
    dialect: str, chapter: int, tmp_path: Path
) -> None:
    assert play(tmp_path, dialect, chapter, ACCOUNTS[dialect])["install.created"] > 0


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("verse", range(100, 110))
@pytest.mark.parametrize(("dialect", "chapter"), CHAPTERS)
def test_ten_thousand_histories_have_no_false_deletion_and_no_lost_change(
    dialect: str, chapter: int, verse: int, tmp_path: Path
) -> None:
    counts = play(tmp_path, dialect, f"{verse}_{chapter}", ACCOUNTS[dialect])
    assert counts["install.created"] > 0
