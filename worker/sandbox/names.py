"""Ids and names that look like those of the platforms, drawn from a seeded generator."""

import string
from collections.abc import Sequence
from datetime import datetime
from random import Random

ALPHABET = string.ascii_letters + string.digits
# Not ASCII on purpose: names come from everywhere, and every byte of them must survive.
OWNERS: Sequence[str] = (
    "Søndergaard",
    "Ferme Bérubé",
    "Hof Grünwald",
    "Granja São José",
    "Finca La Niña",
    "Smith & Sons",
    "O'Brien",
    "Żółkiewski",
    "畑中農場",
)
SITES: Sequence[str] = ("Nord", "South Barn", "Maternité 2", "Gestation", "Hilltop", "Los Álamos")
PRODUCTS: Sequence[str] = ("Notify", "Feed Planner", "Weigh-In", "Climate Watch", "Ledger", "Herd")


def made_id(rng: Random, prefix: str) -> str:
    """An id in Gestal's form: `prefix`, an underscore, 32 letters and digits."""
    return f"{prefix}_{''.join(rng.choices(ALPHABET, k=32))}"


def made_uuid(rng: Random, at: datetime) -> str:
    """A UUID of version 7: later moments sort later."""
    moment = f"{int(at.timestamp() * 1000):012x}"
    noise = f"{rng.getrandbits(74):019x}"
    variant = "89ab"[int(noise[3:4], 16) % 4]
    return f"{moment[:8]}-{moment[8:]}-7{noise[:3]}-{variant}{noise[4:7]}-{noise[7:]}"


def made_name(rng: Random, words: Sequence[str]) -> str:
    """A name with a number, so that two draws seldom agree."""
    return f"{rng.choice(words)} {rng.randrange(10_000)}"
