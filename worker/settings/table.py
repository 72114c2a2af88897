"""The pydantic model that every table of the configuration is made of."""

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Table(BaseModel):
    """A frozen table of the configuration that knows all its keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        # A wrong value may be a secret; problems.py decides what of it is shown.
        hide_input_in_errors=True,
    )


def matching(pattern: str, expected: str) -> Callable[[str], str]:
    """A validator that accepts what matches `pattern`, and otherwise says what was expected."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(f"expected {expected}")
        return value

    return check


Name = Annotated[
    str,
    AfterValidator(
        matching(r"[a-z0-9][a-z0-9_-]{0,99}", "a name of a-z, 0-9, _ and -, up to 100 of them")
    ),
]
