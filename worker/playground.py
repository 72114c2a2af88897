"""The sandbox of `stocktake sandbox` and `stocktake demo`: both platforms, a receiver, a config."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

import msgspec

from worker import clock
from worker.errors import ConfigInvalid
from worker.sandbox.aeontel_world import TOKEN, AeontelWorld
from worker.sandbox.gestal_world import GestalWorld
from worker.sandbox.logins import EMAIL, PASSWORD
from worker.sandbox.receiver import Received, Receiver
from worker.sandbox.seeding import aeontel_world, gestal_world
from worker.sandbox.server import Sandbox, serve

SECRET: Final = "whsec_c3RvY2t0YWtlLXNhbmRib3gtb25seS1zZWNyZXQ="  # noqa: S105 - of the sandbox


@dataclass(slots=True)
class Playground:
    """Both platforms and a receiver, running on one port."""

    server: Sandbox
    gestal: GestalWorld
    aeontel: AeontelWorld
    receiver: Receiver
    _told: int = field(default=0)

    @property
    def config(self) -> str:
        """A configuration that points at this sandbox."""
        return f"""\
[[sources]]
name = "farm"
dialect = "gestal"
base_url = "{self.server.at("gestal")}"
email = "{EMAIL}"
password = "{PASSWORD}"
requests_per_second = 0

[[sources]]
name = "voice"
dialect = "aeontel"
base_url = "{self.server.at("aeontel")}"
token = "{TOKEN}"
requests_per_second = 0

[[endpoints]]
name = "crm"
url = "{self.server.at("hooks")}"
secrets = ["{SECRET}"]
events = ["*"]
allow_http = true
allow_private_networks = true
"""

    @property
    def guide(self) -> str:
        """What a person at the terminal needs to know."""
        url = self.server.url
        return (
            f"The sandbox runs at {url}. Put this into stocktake.toml, then `stocktake sync`:\n\n"
            f"{self.config}\n"
            f"Change something:  curl -X POST '{url}/control/mutate?dialect=gestal&n=10'\n"
            f"Break something:   curl '{url}/control/fault?dialect=gestal' "
            '-d \'{"kind": "server_error"}\'\n'
            f"What was asked:    curl {url}/control/requests\n\n"
            "Webhooks that arrive are listed here. Ctrl-C ends the sandbox."
        )

    def news(self) -> Iterator[str]:
        """A line for each webhook that came since the last call."""
        fresh = self.receiver.received[self._told :]
        self._told += len(fresh)
        return (_line(each) for each in fresh)


@contextmanager
def playground(port: int = 0, installs: int = 500, seed: int = 0) -> Iterator[Playground]:
    """Runs the sandbox on loopback, with two integrations on each platform."""
    now = clock.now()
    gestal = gestal_world(installs=installs, seed=seed, now=now)
    aeontel = aeontel_world(installs=installs, seed=seed, now=now)
    receiver = Receiver(SECRET)
    with ExitStack() as stack:
        try:
            server = stack.enter_context(serve(gestal, aeontel, receiver, port=port))
        except OSError as error:
            problem = f"{error.strerror}; choose another with --port"
            raise ConfigInvalid(f"port {port} of 127.0.0.1 cannot be used", [problem]) from None
        yield Playground(server, gestal, aeontel, receiver)


def _line(received: Received) -> str:
    try:
        body = msgspec.json.decode(received.body)
    except msgspec.DecodeError:
        body = {}
    signature = "verified" if received.verified else "NOT verified"
    return f"webhook {body.get('type', '?')} {received.headers.get('webhook-id', '?')} {signature}"
