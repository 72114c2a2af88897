"""`endpoints`: what there is to know and to do about receivers."""

import base64
import secrets
from typing import Final

import typer

from worker.cli import output
from worker.cli.context import app

_SECRET_BYTES: Final = 32  # Standard Webhooks wants 24 to 64

endpoints = typer.Typer(no_args_is_help=True, help="Receivers of webhooks.")
app.add_typer(endpoints, name="endpoints")


@endpoints.callback()
def about() -> None:
    """Receivers of webhooks."""


@endpoints.command()
def secret() -> None:
    """Make a new signing secret; it is printed and kept nowhere."""
    made = base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
    output.say(f"whsec_{made}")
