"""Posts claimed deliveries: signs each and hands it to the sender of its endpoint."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from worker import __version__, webhooks
from worker.outbound import Attempt, Claim
from worker.sender import Sender
from worker.settings import Endpoint


class Post:
    """The senders of a batch, each made when it is first needed."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        now: Callable[[], datetime],
        make_sender: Callable[[Endpoint], Sender],
    ) -> None:
        self._endpoints = endpoints
        self._now = now
        self._make_sender = make_sender
        self._senders: dict[str, Sender] = {}

    async def send(self, claim: Claim) -> Attempt:
        """Sends a delivery once."""
        endpoint = self._endpoints[claim.endpoint]
        sender = self._senders.get(endpoint.name)
        if sender is None:
            sender = self._senders[endpoint.name] = self._make_sender(endpoint)
        started_at, began = self._now(), asyncio.get_running_loop().time()
        answer = await sender.send(_headers(endpoint, claim, started_at), claim.body)
        seconds = asyncio.get_running_loop().time() - began
        answer = replace(answer, body=endpoint.concealed(answer.body))
        return Attempt(claim, answer, started_at, seconds)

    async def aclose(self) -> None:
        """Close every connection."""
        for sender in self._senders.values():
            await sender.aclose()


def _headers(endpoint: Endpoint, claim: Claim, now: datetime) -> dict[str, str]:
    secrets = [secret.get_secret_value() for secret in endpoint.secrets]
    extra = {name: value.get_secret_value() for name, value in endpoint.headers.items()}
    return webhooks.headers(claim, secrets, extra, __version__, now)
