"""Every metric (DAEMON, "Health"): its name, its labels, and its value in the state store."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import product
from typing import Any, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from sqlalchemy import Engine

from worker import __version__
from worker.models import Mode, Outcome
from worker.settings import EVENT_TYPES, Settings
from worker.state import looking, sources, tallies, transaction
from worker.state.tables import SourceState

Labels = tuple[str, ...]
Values = Mapping[Labels, float]


def registry(settings: Settings, engine: Engine) -> CollectorRegistry:
    """All metrics as they are now, to be written down in the format that is asked for."""
    now = _Now(list(_families(settings, engine)))
    only_ours = CollectorRegistry(auto_describe=False)
    only_ours.register(now)
    return only_ours


class _Now(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(settings: Settings, engine: Engine) -> Iterator[Metric]:
    states = {state.source: state for state in sources.every(engine)}
    with transaction(engine) as session:
        tallied = _by_metric(tallies.every(session))
        waiting = looking.open_deliveries(session)
        holds = looking.open_holds(session)
    yield _gauge("stocktake_build_info", "Which version runs.", ["version"], {(__version__,): 1})
    names = [source.name for source in settings.sources]
    yield from _of_sources(names, states, holds, tallied)
    yield from _of_endpoints([endpoint.name for endpoint in settings.endpoints], waiting, tallied)


def _of_sources(
    names: list[str],
    states: Mapping[str, SourceState],
    holds: Mapping[str, int],
    tallied: Mapping[str, list[tuple[dict[str, str], float]]],
) -> Iterator[Metric]:
    yield _counter(
        tallies.RUNS, "Runs of syncs, one per listing.", ["source", "mode", "outcome"],
        tallied, product(names, get_args(Mode), get_args(Outcome)),
    )  # fmt: skip
    yield _histogram(tallies.SYNC_SECONDS, "How long syncs took.", tallied)
    yield _gauge(
        "stocktake_last_success_timestamp_seconds", "When a sync of the source last succeeded.",
        ["source"], _moments({name: state.last_synced_at for name, state in states.items()}, names),
    )  # fmt: skip
    yield _gauge(
        "stocktake_rate_limited_until_timestamp_seconds",
        "Until when the source is asked nothing, by its last rate limit.",
        ["source"],
        _moments({name: state.rate_limited_until for name, state in states.items()}, names),
    )
    yield _counter(
        tallies.REQUESTS, "Requests that syncs sent to the source, logins and retries included.",
        ["source"], tallied, product(names),
    )  # fmt: skip
    yield _gauge(
        tallies.ACTIVE, "Installs that are active, by the last sync.", ["source"],
        _levels(tallied, tallies.ACTIVE, names),
    )  # fmt: skip
    yield _gauge(
        tallies.SUSPECTS, "Installs that are absent but not proven gone, by the last sync.",
        ["source"], _levels(tallied, tallies.SUSPECTS, names),
    )  # fmt: skip
    held: Values = {(name,): float(holds.get(name, 0)) for name in names}
    yield _gauge("stocktake_holds", "Holds that wait for a person.", ["source"], held)
    yield _counter(
        tallies.EVENTS, "Events that were recorded, those of baselines included.",
        ["source", "type"], tallied, product(names, EVENT_TYPES),
    )  # fmt: skip


def _of_endpoints(
    names: list[str],
    waiting: Mapping[str, tuple[int, datetime]],
    tallied: Mapping[str, list[tuple[dict[str, str], float]]],
) -> Iterator[Metric]:
    yield _counter(
        tallies.DELIVERIES,
        "Attempts: delivered, failed (to be tried again) or dead (given up).",
        ["endpoint", "outcome"], tallied, product(names, dict.fromkeys(tallies.OUTCOMES.values())),
    )  # fmt: skip
    yield _histogram(tallies.DELIVERY_SECONDS, "How long attempts took.", tallied)
    counts: Values = {(name,): float(waiting[name][0] if name in waiting else 0) for name in names}
    yield _gauge(
        "stocktake_deliveries_pending", "Deliveries that wait or are under way.",
        ["endpoint"], counts,
    )  # fmt: skip
    yield _gauge(
        "stocktake_oldest_pending_timestamp_seconds",
        "When the oldest delivery was made that waits or is under way.",
        ["endpoint"], _moments({name: since for name, (_, since) in waiting.items()}, names),
    )  # fmt: skip


def _by_metric(
    rows: Iterable[tuple[str, dict[str, str], float]],
) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for metric, labels, value in rows:
        found.setdefault(metric, []).append((labels, value))
    return found


def _gauge(name: str, help: str, labels: list[str], values: Values) -> Metric:
    family = GaugeMetricFamily(name, help, labels=labels)
    for each, value in sorted(values.items()):
        family.add_metric(each, value)
    return family


def _counter(
    name: str,
    help: str,
    labels: list[str],
    tallied: Mapping[str, list[tuple[dict[str, str], float]]],
    expected: Iterable[Labels],
) -> Metric:
    """A counter that starts at zero where something is expected: a first increase is one too."""
    family = CounterMetricFamily(name, help, labels=labels)
    counted = {tuple(row[label] for label in labels): n for row, n in tallied.get(name, ())}
    for each, value in sorted({**dict.fromkeys(expected, 0.0), **counted}.items()):
        family.add_metric(each, value)
    return family


def _histogram(
    name: str, help: str, tallied: Mapping[str, list[tuple[dict[str, str], float]]]
) -> Metric:
    fell = {float(row["le"]): n for row, n in tallied.get(f"{name}_bucket", ())}
    bounds = [*map(str, tallies.BOUNDS[name]), "+Inf"]
    # Kept is how many fell between two bounds, told how many below one.
    buckets = [(le, sum(n for at, n in fell.items() if at <= float(le))) for le in bounds]
    total = sum(n for _, n in tallied.get(f"{name}_sum", ()))
    family = HistogramMetricFamily(name, help)
    family.add_metric([], buckets, total)
    return family


def _levels(
    tallied: Mapping[str, list[tuple[dict[str, str], float]]], metric: str, names: list[str]
) -> Values:
    return {(row["source"],): n for row, n in tallied.get(metric, ()) if row["source"] in names}


def _moments(moments: Mapping[str, datetime | None], names: list[str]) -> Values:
    """In seconds since 1970; what has not happened has no value."""
    found: dict[str, Any] = {name: moments.get(name) for name in names}
    return {(name,): moment.timestamp() for name, moment in found.items() if moment}
