"""Whole histories of moving listings: a live row is never deleted, and a quiet one is exact."""

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import pytest
from mirrors import Mirror, keyset_history, numbered_history, single_pass
from worlds import FOOLING, NATURAL

History = Callable[[Random, Sequence[str], int], Mirror]

numbered_or_keyset = pytest.mark.parametrize("history", [numbered_history, keyset_history])
serial_or_parallel = pytest.mark.parametrize("parallel", [1, 4])
natural_or_fooling = pytest.mark.parametrize(
    "adversaries", [tuple(NATURAL), tuple(FOOLING)], ids=["natural", "fooling"]
)


def counted(
    history: History, adversaries: Sequence[str], parallel: int, seeds: range
) -> Counter[str]:
    """The counts of many histories, each of which must end in the truth."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        mirror = history(Random(f"{history.__name__} {seed}"), adversaries, parallel)
        assert not mirror.over_recorded(), f"history {seed} recorded more deletions than happened"
        assert mirror.is_exact(), f"history {seed} ends with a snapshot that is not the source"
        counts += mirror.counts
    return counts


@numbered_or_keyset
@natural_or_fooling
@serial_or_parallel
def test_no_history_deletes_a_live_row(
    history: History, adversaries: Sequence[str], parallel: int
) -> None:
    counts = counted(history, adversaries, parallel, range(30))
    assert counts["false deletions"] == 0


@serial_or_parallel
def test_natural_churn_leaves_no_certificate_and_no_claim_wrong(parallel: int) -> None:
    counts = counted(numbered_history, tuple(NATURAL), parallel, range(1000, 1040))
    assert counts["walks pristine"] > 0
    assert counts["walks repaired"] > 0
    assert counts["incremental complete"] > 0
    assert counts["wrong certificates"] == counts["missed changes"] == counts["wrong claims"] == 0


def test_the_oracle_catches_a_single_pass() -> None:
    wrong: Counter[str] = Counter()
    for seed in range(20):
        mirror = numbered_history(Random(seed), tuple(NATURAL), full=single_pass)
        wrong += mirror.counts
    assert wrong["wrong certificates"] > 0
    assert wrong["false deletions"] > 0


@pytest.mark.slow
@numbered_or_keyset
@natural_or_fooling
@serial_or_parallel
def test_no_history_deletes_a_live_row_at_length(
    history: History, adversaries: Sequence[str], parallel: int
) -> None:
    counts = counted(history, adversaries, parallel, range(2000, 2600))
    assert counts["false deletions"] == 0


@pytest.mark.slow
@pytest.mark.soak
@numbered_or_keyset
@natural_or_fooling
@serial_or_parallel
def test_ten_thousand_histories_delete_no_live_row(
    history: History, adversaries: Sequence[str], parallel: int
) -> None:
    counts = counted(history, adversaries, parallel, range(10_000, 20_000))
    assert counts["false deletions"] == 0
    if adversaries == tuple(NATURAL):  # chance alone, at ten mutations a request
        assert counts["wrong certificates"] <= counts["walks"] / 2000
