"""`endpoints`: what there is to know and to do about receivers."""

import base64
import secrets
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from sqlalchemy import Engine

from worker import clock, receivers, relay
from worker.cli import output
from worker.cli.context import Json, app, settings, state
from worker.cli.delivering import came_back
from worker.cli.legible import legible
from worker.cli.waking import wake_deliverer
from worker.errors import StoreBusy, StoreUnusable
from worker.receivers import Standing
from worker.settings import Settings
from worker.state import inspection, transaction

_SECRET_BYTES: Final = 32  # Standard Webhooks wants 24 to 64
_RECENT: Final = 10  # attempts that are shown
_COLUMNS = ("endpoint", "address", "state", "waiting", "dead", "last success (UTC)", "detail")

EndpointName = Annotated[str, typer.Argument(help="A configured endpoint.")]

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


@endpoints.command("list")
def list_endpoints(json: Json = False) -> None:
    """List the endpoints and how they fare."""
    loaded, now = settings(), clock.now()
    with state(loaded) as engine:
        _introduce(loaded, engine)
        found = receivers.standings(engine, loaded.endpoints)
    if json:
        output.emit({"endpoints": [_document(each, now) for each in found]})
    else:
        output.table(_COLUMNS, [_line(each, now) for each in found], "no endpoint is configured")


@endpoints.command("show")
def show_endpoint(name: EndpointName, json: Json = False) -> None:
    """Show one endpoint: what it is sent, its limits, and the last attempts."""
    loaded, now = settings(), clock.now()
    endpoint = loaded.endpoint(name)
    with state(loaded) as engine:
        _introduce(loaded, engine)
        (standing,) = receivers.standings(engine, [endpoint])
        with transaction(engine) as session:
            tries = inspection.newest_attempts(session, name, _RECENT)
    document = _document(standing, now) | {
        "cursor": standing.cursor,
        "events": endpoint.events,
        "sources": endpoint.sources,
        "format": endpoint.format,
        "secrets": len(endpoint.secrets),
        "max_per_minute": endpoint.max_per_minute,
        "max_in_flight": endpoint.max_in_flight,
    }
    if json:
        told = [{**each, "answer": legible(each["answer"])} for each in tries]
        output.emit(document | {"recent_attempts": told})
        return
    output.table(("field", "value"), list(document.items()))
    output.say("\nlast attempts", style="bold")
    rows = [
        (each["started_at"], each["delivery_id"], each["seconds"], came_back(each))
        for each in tries
    ]
    output.table(("began (UTC)", "delivery", "seconds", "detail"), rows, "none yet")


@endpoints.command()
def pause(name: EndpointName) -> None:
    """Send nothing more to an endpoint; what is for it waits."""
    loaded = settings()
    endpoint = loaded.endpoint(name)
    with state(loaded) as engine:
        receivers.pause(loaded, engine, endpoint)
    output.say(f"{name} is paused; `stocktake endpoints resume {name}` goes on with it")


@endpoints.command()
def resume(name: EndpointName) -> None:
    """Send to an endpoint again, paused or disabled; what waited is due now."""
    loaded = settings()
    endpoint = loaded.endpoint(name)
    with state(loaded) as engine:
        released = receivers.resume(loaded, engine, endpoint)
    if released:
        wake_deliverer(loaded)
    output.say(f"{name} is sent to again; {released} deliveries that waited are due")


@endpoints.command("test")
def try_now(name: EndpointName, json: Json = False) -> None:
    """Send webhook.test to an endpoint now; 1 if it does not take it."""
    loaded = settings()
    endpoint = loaded.endpoint(name)
    with state(loaded) as engine:
        relay.introduce(loaded, engine)
        trial = receivers.test(engine, loaded.endpoints, endpoint)
    if json:
        output.emit(trial)
    else:
        told = trial.error or f"{endpoint.origin} answered {trial.status}"
        after = f" after {trial.seconds:.2f} s" if trial.seconds is not None else ""
        output.say(told + after, style="" if trial.taken else "red")
    raise typer.Exit(0 if trial.taken else 1)


def _introduce(loaded: Settings, engine: Engine) -> None:
    try:
        relay.introduce(loaded, engine)
    except (StoreBusy, StoreUnusable) as error:
        output.note(f"new endpoints are not registered yet: {error}")


def _document(standing: Standing, now: datetime) -> dict[str, Any]:
    endpoint, health, counts = standing.endpoint, standing.health, standing.counts
    return {
        "name": endpoint.name,
        "address": endpoint.origin,
        "state": standing.state(now),
        "reason": health.disabled_reason,
        "failing_since": health.failing_since,
        "breaker_until": health.breaker_until,
        "flag": health.flag,
        "last_success_at": health.last_success_at,
        **{each: counts.get(each, 0) for each in inspection.STATES},
    }


def _line(standing: Standing, now: datetime) -> tuple[Any, ...]:
    health, counts = standing.health, standing.counts
    waiting = sum(counts.get(each, 0) for each in ("pending", "in_flight", "paused"))
    last = health.last_success_at
    return (
        standing.endpoint.name,
        standing.endpoint.origin,
        standing.state(now),
        waiting,
        counts.get("dead", 0),
        f"{last:%m-%d %H:%M:%S}" if last else None,
        ", ".join(_about(standing, now)) or None,
    )


def _about(standing: Standing, now: datetime) -> list[str]:
    health = standing.health
    told = [health.disabled_reason, health.flag]
    if health.failing_since:
        told.append(f"failing since {health.failing_since:%m-%d %H:%M}")
    if health.breaker_until and now < health.breaker_until:
        told.append(f"nothing is sent until {health.breaker_until:%H:%M:%S}")
    return [each for each in told if each]
