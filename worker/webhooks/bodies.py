"""What a webhook says: the request body of every event and notice (DESIGN section 7)."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from worker.models import Event

Format = Literal["standard", "slack"]

MAX_BODY = 20_000
# Their values never travel; as changed fields only their names do.
_WITHHELD = frozenset({"payload", "variables"})
_OMITTED = _WITHHELD | {"row_hash"}


def event_body(event: Event, format: Format) -> bytes:
    """The request body for an event."""
    return _slack(_sentence(event)) if format == "slack" else _event_json(event)


def notice_body(
    notice_id: str,
    type: str,
    source: str | None,
    data: Mapping[str, Any],
    created_at: datetime,
    format: Format,
) -> bytes:
    """The request body for a notice."""
    if format == "slack":
        facts = ", ".join(f"{name} {_plain(value)}" for name, value in data.items())
        return _slack(" · ".join(part for part in (type, source, facts) if part))
    said = {"notice_id": notice_id, "source": source, **data}
    return msgspec.json.encode({"type": type, "timestamp": _utc(created_at), "data": said})


def _event_json(event: Event) -> bytes:
    body = b""
    for data in _ever_smaller(event):
        message = {"type": event.type, "timestamp": _utc(event.detected_at), "data": data}
        body = msgspec.json.encode(message)
        if len(body) <= MAX_BODY:
            break
    return body


def _ever_smaller(event: Event) -> Iterator[dict[str, Any]]:
    """What an event says, then less of it for when that is too long to be sent."""
    kind = event.type.partition(".")[0]
    columns, ids = _columns(event, kind), _ids(event, kind)
    said: dict[str, Any] = {
        "event_id": event.event_id,
        "sequence": event.sequence,
        "source": event.source,
        "occurred_at": _utc(event.occurred_at),
        "deletion_inferred": event.deletion_inferred,
        "revision": event.revision,
        "changed_fields": event.changed_fields,
        "previous_attributes": _previous(event),
    }
    yield {**said, kind: columns, "run_id": event.run_id}
    yield {**said, kind: ids, "run_id": event.run_id, "truncated": True}
    said["previous_attributes"] = {}
    yield {**said, kind: ids, "run_id": event.run_id, "truncated": True}


def _columns(event: Event, kind: str) -> dict[str, Any]:
    row = event.after or event.before or _ids(event, kind)
    said = {name: value for name, value in row.items() if name not in _OMITTED}
    return {"source": event.source, **said}


def _ids(event: Event, kind: str) -> dict[str, Any]:
    ids = {"source": event.source, "integration_id": event.integration_id}
    return {**ids, "install_id": event.install_id} if kind == "install" else ids


def _previous(event: Event) -> dict[str, Any]:
    before = event.before or {}
    return {name: before.get(name) for name in event.changed_fields if name not in _WITHHELD}


def _sentence(event: Event) -> str:
    row = event.after or event.before or {}
    who = row.get("account_name") or row.get("name") or row.get("account_id")
    what = f"install {event.install_id} of " if event.install_id else ""
    parts = (
        event.type + (" (inferred)" if event.deletion_inferred else ""),
        event.source,
        who and str(who),
        f"{what}integration {event.integration_id}",
        _difference(event),
    )
    return " · ".join(part for part in parts if part)


def _difference(event: Event) -> str:
    before, after = event.before or {}, event.after or {}
    if "version_id" in event.changed_fields:
        return f"version {_plain(before.get('version_id'))} → {_plain(after.get('version_id'))}"
    return f"changed: {', '.join(event.changed_fields)}" if event.changed_fields else ""


def _plain(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _slack(text: str) -> bytes:
    # Slack reads <…> as links and mentions; these three are all it asks to be escaped.
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return msgspec.json.encode({"text": escaped})


def _utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.astimezone(UTC)  # msgspec writes UTC with a Z
