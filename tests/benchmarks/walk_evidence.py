"""Counts what walks over a moving listing get wrong: python walk_evidence.py [--histories N]."""

import argparse
import math
import sys
from collections import Counter
from pathlib import Path
from random import Random

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]  # the oracle, and a checkout that is not installed

from mirrors import Mirror, single_pass  # noqa: E402 - found through the line above
from worlds import World  # noqa: E402

WALKS = 10  # of one history, each under fire
STRATEGIES = ("single pass", "two walks", "two walks, 4 at once")
MIXES = {
    "any changes": "mix",
    "deletions with creations": "swap",
    "deletions ahead of the reader": "shift",
    "rows that jump when read": "dodge",
    "bulk job, oldest first": "rotate",
    "bursts": "burst",
    "only before the last look": "gap_last",
    "fooling: order rebuilt over a change": "reorder",
    "fooling: order rebuilt over a swap": "top_swap",
}
HEAD = (
    "strategy", "changes during the walk", "walks", "certified", "deletions", "false deletions",
    "live rows never read", "changes missed at its end", "requests per page",
)  # fmt: skip


def mirror_of(strategy: str, world: World) -> Mirror:
    if strategy == "single pass":
        return Mirror(world, full=single_pass, certified_walks=1)
    return Mirror(world, parallel=4 if "at once" in strategy else 1)


def counted(strategy: str, adversary: str, histories: int) -> Counter[str]:
    """The counts of `histories` histories of 200 rows in pages of 20, 0.5 changes a request."""
    counts: Counter[str] = Counter()
    for seed in range(histories):
        world = World(Random(f"{adversary} {seed}"), size=20, adversary=adversary)
        mirror = mirror_of(strategy, world.with_rows(200))
        mirror.full_walk()  # at rest: the base
        mirror.counts.clear()
        for _ in range(WALKS):
            world.quiet, world.requests = True, 1
            world.churn(3)
            world.quiet, world.requests = False, 0
            mirror.full_walk()
        counts.update(mirror.counts)
    return counts


def line(strategy: str, mix: str, counts: Counter[str]) -> str:
    kinds = ("pristine", "repaired", "none")
    requests, pages = (sum(counts[f"{what} {kind}"] for kind in kinds)
                       for what in ("requests", "pages"))  # fmt: skip
    certified = 1 - counts["walks none"] / counts["walks"]
    wrong = (counts[name] for name in ("false deletions", "rows never read", "outdated rows"))
    return row(
        strategy,
        mix,
        counts["walks"],
        f"{certified:.0%}",
        counts["deletions"],
        *wrong,
        f"{requests / pages:.2f}",
    )


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def cost_of_repair(histories: int) -> str:
    """What repaired walks cost over 2,000 rows in pages of 100, 0.5 changes a request."""
    ratios: dict[int, list[float]] = {1: [], 4: []}
    for parallel, costs in ratios.items():
        for seed in range(histories):
            world = World(Random(seed), size=100).with_rows(2000)
            world.quiet = False
            mirror = Mirror(world, parallel)
            for _ in range(2):
                walked = mirror.full_walk()
                if walked.certificate == "repaired":
                    costs.append(walked.requests / math.ceil(2000 / 100))
    serial, parallel_first = (
        f"{sum(costs) / len(costs):.2f} on average, {max(costs):.2f} at most ({len(costs)} walks)"
        for costs in ratios.values()
    )
    return (
        "A repaired walk over 2,000 rows in pages of 100 at 0.5 changes a request costs, as a"
        f" multiple of the pages: serial {serial}; parallel first {parallel_first}. Bound: 2.5."
    )


def main() -> None:
    """Print one table line per strategy and mix, and what a repaired walk costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=50, help=f"of {WALKS} walks each")
    histories = parser.parse_args().histories
    print(row(*HEAD), row(*["---"] * len(HEAD)), sep="\n")
    for strategy in STRATEGIES:
        for mix, adversary in MIXES.items():
            print(line(strategy, mix, counted(strategy, adversary, histories)), flush=True)
    print(f"\n{cost_of_repair(histories)}")


if __name__ == "__main__":
    main()
