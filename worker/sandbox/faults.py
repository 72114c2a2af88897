"""What can go wrong between a platform and its client, planned by a test and applied in order."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import msgspec

from worker.sandbox.calls import Answer, Call, refused, said

# Instead of an answer:
Outage = Literal[
    "server_error",  # `status`: 500, 502, 503 or 504
    "rate_limited",  # 429, with `retry_after` as it stands, or without that header
    "unauthorized",  # 401 although the login is good
    "expire_token",  # every token dies before the call is looked at
    "forbidden",  # 403
    "reset",  # the connection closes without an answer
    "html",  # 200, and a page for people
]
# Of an answer that is right:
Damage = Literal["truncated"]  # the body stops half-way, `content-length` says it does not
# Of a page of a listing:
Distortion = Literal[
    "empty_page",  # no rows, and the true totals
    "duplicated_page",  # the rows of the page before this one
    "page_ignored",  # page 1, whatever was asked for
    "short_page",  # a row is missing from the middle
    "wrong_total",  # the total is off by `amount`
    "no_total",  # the total is not said
    "no_meta",  # nothing is said about the page
    "wrong_types",  # `where`: `data` is an object, or the first `id` a number
]
Kind = Outage | Damage | Distortion

DISTORTIONS = frozenset(get_args(Distortion))


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong for `times` calls (None: until cleared), once `after` calls have
    passed; only calls whose path and query contain `match` count."""

    kind: Kind
    times: int | None = 1
    match: str | None = None
    after: int = 0
    status: int = 503
    retry_after: str | None = None
    amount: int = 1
    where: Literal["data", "id"] = "data"

    def concerns(self, call: Call) -> bool:
        """Whether it counts this call; only a listing has a page to distort."""
        listed = call.lists or self.kind not in DISTORTIONS
        return listed and (self.match is None or self.match in call.target)


@dataclass(slots=True)
class Faults:
    """The plan: of the faults that are due, the one that was added first strikes."""

    planned: list[Fault] = field(default_factory=list)

    def add(self, *faults: Fault) -> None:
        """Plan more of them."""
        self.planned += faults

    def clear(self) -> None:
        """Nothing goes wrong from here on."""
        self.planned.clear()

    def take(self, call: Call) -> Fault | None:
        """The fault that strikes this call, if any; counts the call for the others."""
        struck: Fault | None = None
        left: list[Fault] = []
        for fault in self.planned:
            if not fault.concerns(call):
                left.append(fault)
            elif fault.after:
                left.append(replace(fault, after=fault.after - 1))
            elif struck:
                left.append(fault)
            else:
                struck = fault
                left += _rest(fault)
        self.planned = left
        return struck


def _rest(fault: Fault) -> list[Fault]:
    if fault.times is None:
        return [fault]
    return [replace(fault, times=fault.times - 1)] if fault.times > 1 else []


def under(
    fault: Fault | None,
    call: Call,
    truth: Callable[[Call], Answer],
    expire_tokens: Callable[[], None],
) -> Answer:
    """What the client gets for `call` under `fault`, where `truth` is what it should get."""
    match fault:
        case None:
            return truth(call)
        case Fault(kind="expire_token"):
            expire_tokens()
            return truth(call)
        case Fault(kind="truncated"):
            return _truncated(truth(call))
        case Fault(kind="page_ignored"):
            return truth(_without(call, "page", "after", "before"))
        case Fault(kind=kind) if kind in DISTORTIONS:
            return _distorted(fault, call, truth)
        case _:
            return _outage(fault)


def _outage(fault: Fault) -> Answer:
    match fault.kind:
        case "server_error":
            return refused(fault.status, "the server is not well")
        case "rate_limited":
            headers = {} if fault.retry_after is None else {"retry-after": fault.retry_after}
            return refused(429, "flood protection", headers)
        case "unauthorized":
            return refused(401, "not authenticated")
        case "forbidden":
            return refused(403, "not allowed")
        case "html":
            page = b"<!doctype html><title>Maintenance</title>"
            return Answer(200, {"content-type": "text/html"}, page)
        case _:
            return Answer(0, reset=True)


def _truncated(answer: Answer) -> Answer:
    headers = {**answer.headers, "content-length": str(len(answer.body))}
    return replace(answer, headers=headers, body=answer.body[: len(answer.body) // 2])


def _distorted(fault: Fault, call: Call, truth: Callable[[Call], Answer]) -> Answer:
    answer = truth(call)
    if answer.status != 200:
        return answer
    page: dict[str, Any] = msgspec.json.decode(answer.body)
    if fault.kind == "duplicated_page":
        page["data"] = _rows_before(call, page, truth)
    else:
        _distort(fault, page, "meta" if "meta" in page else "pageInfo")
    return said(200, page)


def _distort(fault: Fault, page: dict[str, Any], meta: str) -> None:
    rows: list[dict[str, Any]] = page["data"]
    match fault.kind:
        case "empty_page":
            rows.clear()
        case "short_page":
            del rows[len(rows) // 2 : len(rows) // 2 + 1]
        case "wrong_total":
            page[meta]["total"] = page[meta].get("total", 0) + fault.amount
        case "no_total":
            page[meta].pop("total", None)
        case "no_meta":
            del page[meta]
        case "wrong_types" if fault.where == "data":
            page["data"] = {str(number): row for number, row in enumerate(rows)}
        case "wrong_types":
            for row in rows[:1]:
                row["cloud_id" if "cloud_id" in row else "id"] = 4711


def _rows_before(call: Call, page: dict[str, Any], truth: Callable[[Call], Answer]) -> Any:
    """The rows of the page before `page`; those of `page` itself if it is the first."""
    if "meta" in page:
        number = page["meta"]["current_page"]
        earlier = _with(call, "page", str(max(1, number - 1)))
    else:
        start = page["pageInfo"]["startCursor"]
        if start is None or not page["pageInfo"]["hasPreviousPage"]:
            return page["data"]
        earlier = _with(_without(call, "after"), "before", start)
    return msgspec.json.decode(truth(earlier).body)["data"]


def _without(call: Call, *names: str) -> Call:
    return replace(call, params=tuple(pair for pair in call.params if pair[0] not in names))


def _with(call: Call, name: str, value: str) -> Call:
    return replace(call, params=(*_without(call, name).params, (name, value)))
