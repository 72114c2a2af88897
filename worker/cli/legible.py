"""What a receiver answered, or a customer wrote, as text that cannot steer the terminal."""

import unicodedata

import msgspec

_KEPT = frozenset("\n\t")
# Control characters, and those that turn the direction of what follows.
_UNSEEN = frozenset({"Cc", "Cf", "Zl", "Zp"})


def legible(text: bytes) -> str:
    """Text of unknown origin: what is no UTF-8, or not to be seen, is escaped."""
    return "".join(map(_visible, text.decode("utf-8", "backslashreplace")))


def pretty(document: bytes) -> str:
    """A JSON document over several lines."""
    return legible(msgspec.json.format(document, indent=2))


def _visible(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _UNSEEN:
        return character
    return character.encode("unicode_escape").decode()
