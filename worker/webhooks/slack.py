"""What a webhook says in Slack: one message of Block Kit for each event and notice.

What customers wrote stands only where Slack reads it as it is (`plain_text`), never where it reads
mark-up: a name can neither mention a channel nor become a link.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from worker.models import Event

# Slack refuses a message with more (docs.slack.dev: header, section, context, text object).
_HEADER: Final = 150
_FIELDS: Final = 10
_TEXT: Final = 3000
# What a person reads; Slack would take 2000 characters a field.
_VALUE: Final = 300
_LISTED: Final = 10

_ESCAPES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_JOINERS: Final = "\u200c\u200d"  # names in Persian or Hindi, and emoji, are spelt with them
_WITHHELD: Final = frozenset({"payload", "variables"})
_EVIDENCE: Final = {
    ("deleted", False): "the source says so",
    ("deleted", True): "inferred: it is proven that no listing shows it any more",
    ("restored", True): "it is seen again: a deletion that was inferred is taken back",
}

Facts = Iterable[tuple[str, str | None]]


@dataclass(frozen=True, slots=True)
class _Story:
    """What a person is told: a headline, facts with their labels, what to know or to type."""

    headline: str
    facts: Facts
    advice: str = ""  # mark-up of ours, without a word from elsewhere


def event_message(event: Event) -> bytes:
    """The request body for an event."""
    kind, _, verb = event.type.partition(".")
    row = event.after or event.before or {}
    who = row.get("account_name") or row.get("account_id") or row.get("name")
    inferred = " (inferred)" if event.deletion_inferred and verb == "deleted" else ""
    headline = f"{kind.capitalize()} {verb}{inferred}: {who or event.install_id or 'without name'}"
    small = (
        event.event_id,
        f"event {event.sequence}",
        event.run_id,
        f"detected {_when(event.detected_at)}",
    )
    return _message(_Story(headline, _event_facts(event, row)), small)


def notice_message(
    notice_id: str, type: str, source: str | None, data: Mapping[str, Any], created_at: datetime
) -> bytes:
    """The request body for a notice."""
    return _message(_story(type, source, data), (notice_id, type, _when(created_at)))


def _event_facts(event: Event, row: Mapping[str, Any]) -> Facts:
    before = event.before or {}
    upgraded = event.type == "install.upgraded" and "version_id" in event.changed_fields
    version = row.get("version_id") or row.get("current_version")
    old = f"{_plain(before.get('version_id'))} → " if upgraded else ""
    yield "Account", _named(row.get("account_name"), row.get("account_id"))
    yield "Site", _named(row.get("site_name"), row.get("site_id"))
    yield "Integration", _named(row.get("name"), event.integration_id)
    yield "Install", event.install_id
    yield "Version", f"{old}{_plain(version)}" if upgraded or version else None
    for name in event.changed_fields:
        if name != "version_id":
            yield name.replace("_", " ").capitalize(), _difference(name, before, row)
    yield "Source", event.source
    noticed = f"noticed {_when(event.detected_at)}"
    yield "When", _when(event.occurred_at) if event.occurred_at else noticed
    yield "How we know", _EVIDENCE.get((event.type.partition(".")[2], event.deletion_inferred))


def _difference(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if name in _WITHHELD:
        return "changed"
    return f"{_plain(before.get(name))} → {_plain(after.get(name))}"


def _story(type: str, source: str | None, data: Mapping[str, Any]) -> _Story:
    match type:
        case "sync.baseline":
            return _baseline(source, data)
        case "sync.held":
            return _held(source, data)
        case "sync.failed":
            return _failed(source, data)
        case "sync.recovered":
            headline = f"Syncs of {source} work again"
            return _Story(headline, [("Failed before", f"{data.get('failures')} times in a row")])
        case "endpoint.disabled":
            return _disabled(data)
        case "webhook.test":
            return _Story("A test of Stocktake", (), "This endpoint works.")
        case _:
            facts = ((name, _plain(value)) for name, value in data.items())
            return _Story(type, [("Source", source), *facts])


def _baseline(source: str | None, data: Mapping[str, Any]) -> _Story:
    if data.get("reason") == "restored":
        return _restored(data)
    installs = _counted(data.get("installs"), "install")
    counts = f"{installs} of {_counted(data.get('integrations'), 'integration')}"
    facts = [("Found", counts), ("Listings", _several(data.get("scopes") or ()))]
    advice = "They are recorded, and not announced one by one. What changes from now on is."
    return _Story(f"Baseline of {source}: {counts}", facts, advice)


def _restored(data: Mapping[str, Any]) -> _Story:
    installs = _counted(data.get("active_installs"), "install")
    counts = f"{installs} of {_counted(data.get('sources'), 'source')}"
    facts = [("Holds", counts), ("Event log", f"goes on after event {data.get('sequence')}")]
    advice = "What happened after that backup is found out and announced again, with new ids."
    return _Story(f"A backup was restored: {counts}", facts, advice)


def _held(source: str | None, data: Mapping[str, Any]) -> _Story:
    hold, share = data.get("hold_id"), data.get("share")
    count = _counted(data.get("installs"), "install")
    part = f" ({share:.0%} of the listing)" if isinstance(share, float | int) else ""
    facts = [
        ("Missing", f"{count}{part}"),
        ("Listing", _plain(data.get("scope"))),
        ("Why", _plain(data.get("reason"))),
    ]
    advice = (
        "They are kept as active until you decide.\n"
        f"`stocktake approve {hold}` walks again and deletes what is still missing.\n"
        f"`stocktake reject {hold}` keeps them.\n"
        "`stocktake holds` shows what waits."
    )
    return _Story(f"Held: {source} misses {count}", facts, advice)


def _failed(source: str | None, data: Mapping[str, Any]) -> _Story:
    facts = [("Errors", _several(data.get("errors") or ()))]
    advice = (
        "Nothing is deleted meanwhile.\n"
        f"`stocktake runs --source {source}` shows what happened.\n"
        f"`stocktake sync {source}` tries again at once."
    )
    return _Story(f"{data.get('failures')} syncs of {source} failed in a row", facts, advice)


def _disabled(data: Mapping[str, Any]) -> _Story:
    name, since = data.get("endpoint"), data.get("failing_since")
    whys = {"gone": "it answered 410 Gone", "failing": "120 hours and 10 attempts without success"}
    facts = [
        ("Why", whys.get(str(data.get("reason")), _plain(data.get("reason")))),
        ("Failing since", _when(datetime.fromisoformat(since)) if since else None),
    ]
    advice = (
        "Its deliveries are kept and wait.\n"
        f"`stocktake endpoints resume {name}` sends them, once it works again."
    )
    return _Story(f"Endpoint {name} is disabled", facts, advice)


# From stories to blocks.


def _message(story: _Story, small: Iterable[str]) -> bytes:
    headline = cut(story.headline, _HEADER)
    facts = [(label, value) for label, said in story.facts if (value := cut(said or "", _VALUE))]
    blocks: list[dict[str, Any]] = [{"type": "header", "text": _literal(headline)}]
    if story.advice:
        blocks.append({"type": "section", "text": _marked(story.advice)})
    pairs = [[_marked(f"*{label}*"), _literal(value)] for label, value in facts]
    blocks += [
        {"type": "section", "fields": [field for pair in some for field in pair]}
        for some in _in_parts(pairs, _FIELDS // 2)
    ]
    context = [_literal(cut(" · ".join(small), _VALUE))]
    blocks.append({"type": "context", "elements": context})
    # The text is what a notification shows. It is no mark-up; what it names is not unfurled.
    told = (f"{label}: {value}" for label, value in facts if value not in headline)
    sentence = " · ".join([headline, *told])
    text = (sentence if len(sentence) <= _TEXT else headline).replace("`", "'")
    quiet = {"mrkdwn": False, "unfurl_links": False, "unfurl_media": False}
    return msgspec.json.encode({"text": text, "blocks": blocks, **quiet})


def _in_parts(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[first : first + size] for first in range(0, len(items), size))


def _literal(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text, "emoji": False}


def _marked(text: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def cut(text: str, limit: int) -> str:
    """`text` on one line and escaped, in at most `limit` characters as Slack counts them; empty
    where nothing of it can be seen."""
    # As many as may be shown, and some: what is not printable becomes a space or nothing.
    seen = (c if c.isprintable() or c in _JOINERS else " " for c in text[: 2 * limit])
    line = " ".join("".join(seen).split())
    if not any(c.isprintable() and c != " " for c in line):
        return ""
    escaped = [_ESCAPES.get(c, c) for c in line]
    if sum(map(_length, escaped)) <= limit and len(text) <= 2 * limit:
        return "".join(escaped)
    left = limit - 1
    kept = []
    for c in escaped:
        left -= _length(c)
        if left < 0:
            break
        kept.append(c)
    return "".join(kept).rstrip() + "…"


def _length(escaped: str) -> int:
    return len(escaped.encode("utf-16-le")) // 2


def _named(name: Any, id: Any) -> str | None:
    return f"{name} ({id})" if name and id else name or id


def _several(values: Sequence[Any]) -> str:
    more = len(values) - _LISTED
    listed = ", ".join(_plain(value) for value in values[:_LISTED])
    return f"{listed} and {more} more" if more > 0 else listed


def _plain(value: object) -> str:
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _counted(count: Any, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _when(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
