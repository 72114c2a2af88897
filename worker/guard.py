"""The deletion guard: which absences look like an accident and wait for a person."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.findings import Known, Limits, Proposal
from worker.models import Install

SMALLEST_ACCOUNT = 3  # an account that loses fewer installs than this at once is no accident


@dataclass(frozen=True, slots=True)
class Missing:
    """An object whose absence would be recorded. `asked`: the source answered 404 for it."""

    before: Known
    asked: bool = False

    @property
    def id(self) -> str:
        """The id that a hold freezes."""
        before = self.before
        return before.install_id if isinstance(before, Install) else before.integration_id


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be recorded, what newly waits, and how many wait in all."""

    allowed: tuple[Missing, ...]
    holds: tuple[Proposal, ...]
    held: int


def judge(
    scope: str,
    missing: Sequence[Missing],
    active: int,
    limits: Limits,
    account_sizes: Mapping[str, int],
) -> Verdict:
    """Judges the absences of one scope in one run; `active` is how many active rows it had.

    What a person decided goes before every limit: approved ids pass, rejected and held ones stay.
    """
    released, waiting, fresh = _sorted(missing, limits)
    lost = _lost_accounts(missing, account_sizes)
    accident = [m for m in fresh if m.asked and _account(m) in lost]
    rest = [m for m in fresh if not (m.asked and _account(m) in lost)]
    holds = []
    if accident:
        count = len({_account(m) for m in accident})
        accounts = f"{count} account{'s' if count > 1 else ''}"
        lost_access = f"every install of {accounts} answers 404 at once; has the login lost access?"
        holds.append(_hold(scope, lost_access, accident, active))
    before = limits.recorded.get(scope, 0) if rest else 0
    if reason := _too_many(before + len(rest), before + active, limits):
        holds.append(_hold(scope, reason, rest, active))
        rest = []
    held = len(waiting) + sum(len(hold.ids) for hold in holds)
    return Verdict((*released, *rest), tuple(holds), held)


def hold_all(
    scope: str, reason: str, missing: Sequence[Missing], active: int, limits: Limits
) -> Verdict:
    """Holds every absence that no person has released: there is no innocent reading of them."""
    released, waiting, fresh = _sorted(missing, limits)
    holds = (_hold(scope, reason, fresh, active),) if fresh else ()
    return Verdict(tuple(released), holds, len(waiting) + len(fresh))


def release(missing: Sequence[Missing], limits: Limits) -> Verdict:
    """Holds nothing anew, for absences whose one cause is known; what a person decided stands."""
    released, waiting, fresh = _sorted(missing, limits)
    return Verdict((*released, *fresh), (), len(waiting))


def _sorted(
    missing: Sequence[Missing], limits: Limits
) -> tuple[list[Missing], list[Missing], list[Missing]]:
    """Those a person released, those that wait for one already, those nobody has judged."""
    released = [m for m in missing if m.id in limits.approved]
    waiting = [m for m in missing if m.id in limits.held - limits.approved]
    decided = limits.approved | limits.held | limits.rejected
    return released, waiting, [m for m in missing if m.id not in decided]


def _too_many(count: int, active: int, limits: Limits) -> str | None:
    share = _share(count, active)
    if count > limits.max_count:
        return f"{count} absences at once, more than max_count {limits.max_count}"
    if count > limits.min_rows and share > limits.max_share:
        return (
            f"{count} of {active} rows absent at once ({share:.0%}), more than "
            f"max_share {limits.max_share:.0%}"
        )
    return None


def _share(count: int, active: int) -> float:
    return min(count / active, 1.0) if active else 1.0


def _lost_accounts(missing: Sequence[Missing], sizes: Mapping[str, int]) -> set[str]:
    """The accounts of which every active install answers 404, those that wait already included."""
    asked = Counter(_account(m) for m in missing if m.asked and m.before.state == "active")
    return {
        account
        for account, count in asked.items()
        if account and count >= SMALLEST_ACCOUNT and count >= sizes.get(account, 0)
    }


def _account(missing: Missing) -> str:
    before = missing.before
    return (before.account_id or "") if isinstance(before, Install) else ""


def _hold(scope: str, reason: str, missing: Sequence[Missing], active: int) -> Proposal:
    return Proposal(scope, reason, tuple(m.id for m in missing), _share(len(missing), active))
