"""Splits a listing's body into rows without decoding what nobody asked for."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from worker.errors import UnusableBody
from worker.models import Row
from worker.payloads import REDACTED

T = TypeVar("T")


def decode(body: bytes, type_: type[T], what: str) -> T:
    """`body` as a `type_`; UnusableBody says what is wrong with `what`, and never quotes it."""
    try:
        body.decode()  # of what `type_` does not name, msgspec looks at the quotes only
        return msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        raise UnusableBody(f"{what} is not as documented: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        kind = "HTML, not JSON" if body.lstrip()[:1] == b"<" else "not valid JSON"
        raise UnusableBody(f"{what} is {kind} ({len(body)} bytes)") from None


def convert(payload: Any, type_: type[T]) -> T:
    """A row's JSON object as a `type_`; a redacted time or object is no value of its column."""
    try:
        return msgspec.convert(payload, type_)
    except msgspec.ValidationError:
        kept = {name: value for name, value in payload.items() if value != REDACTED}
        return msgspec.convert(kept, type_)


def split(raws: Iterable[msgspec.Raw], type_: type[Any], id_field: str) -> tuple[Row, ...]:
    """One Row per raw object, each checked against `type_`, a Struct with the field `id_field`."""
    return tuple(_row(number, bytes(raw), type_, id_field) for number, raw in enumerate(raws, 1))


def _row(number: int, raw: bytes, type_: type[Any], id_field: str) -> Row:
    what = f"row {number} of the answer"
    decode(raw, object, what)  # all of it is kept, so all of it must be readable
    row_id = getattr(decode(raw, type_, what), id_field)
    if not row_id:
        raise UnusableBody(f"row {number} of the answer has an empty `{id_field}`")
    return Row(row_id, digest(raw), raw)


def digest(raw: bytes) -> str:
    """16 hex digits that differ when the text of a row differs."""
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


def utc(moment: datetime | None) -> datetime | None:
    """`moment` in UTC; the platforms' times without a zone are UTC."""
    if moment is None or moment.tzinfo is None:
        return moment and moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # "0001-01-01T00:00:00+01:00", a platform's way to say never
        return moment.replace(tzinfo=UTC)
