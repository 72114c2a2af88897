"""What a webhook says: the request body of every event and notice (DESIGN section 7)."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from worker.models import Event
from worker.webhooks import slack

Format = Literal["standard", "slack"]

MAX_BODY = 20_000
# Their values never travel; as changed fields only their names do.
_WITHHELD = frozenset({"payload", "variables"})
_OMITTED = _WITHHELD | {"row_hash"}
# What is left of a notice that is too long: 10 x 200 characters of up to 6 bytes are short enough.
_FIRST_OF_LIST = 10
_FIRST_OF_TEXT = 200


def event_body(event: Event, format: Format) -> bytes:
    """The request body for an event."""
    return slack.event_message(event) if format == "slack" else _event_json(event)


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
        return slack.notice_message(notice_id, type, source, data, created_at)
    body = b""
    for facts in (data, {**_shortened(data), "truncated": True}):
        said = {"notice_id": notice_id, "source": source, **facts}
        message = {"type": type, "timestamp": _utc(created_at), "data": said}
        body = msgspec.json.encode(message)
        if len(body) <= MAX_BODY:
            break
    return body


def _shortened(data: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a notice that is too long to be sent: the start of each text and list."""
    return {
        name: [_start(item) for item in value[:_FIRST_OF_LIST]]
        if isinstance(value, list | tuple)
        else _start(value)
        for name, value in data.items()
    }


def _start(value: Any) -> Any:
    return value[:_FIRST_OF_TEXT] if isinstance(value, str) else value


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
    if event.baseline:  # sent on demand only, by a replay of what is installed
        said["baseline"] = True
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


def _utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.astimezone(UTC)  # msgspec writes UTC with a Z
