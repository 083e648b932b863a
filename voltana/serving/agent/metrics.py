"""Prometheus metrics of an agent, from the same figures as its status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from voltana.serving.agent import metrics_declared as told
from voltana.serving.metric_families import family

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric as Family

    from voltana_actuatord.metrics.declared import Metric


def render(status: Mapping[str, Any]) -> tuple[bytes, str]:
    """The metrics in the text format, and its content type.

    Args:
        status: What `Agent.status` returns.
    """
    registry = CollectorRegistry()
    registry.register(_Once(status))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Once:
    """A collector of figures that are known already."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self._status = status
        self._instance = str(status["instance"])

    def collect(self) -> Iterator[Family]:
        """The metrics, each with the label of the instance; unknown figures are left out."""
        status = self._status
        for key, one in told.FLAT.items():
            yield from self._table(status, {key: one.metric}, one.factor)
        yield self._of(told.HEALTHY, {(): float(status.get("health") == "ok")})
        yield self._of(told.GPU_INFO, {(uuid,): 1.0 for uuid in status.get("gpus", ())})
        role = str(status.get("role") or "unknown")
        energy = status.get("energy_by_source_j") or {}
        yield self._of(told.ENERGY, {(role, source): joules for source, joules in energy.items()})
        yield from self._slo()
        for key, metric in told.BY_KIND.items():
            yield self._of(metric, {(kind,): n for kind, n in status.get(key, {}).items()})
        account = status.get("guarantee") or {}
        yield from self._table(account, told.GUARANTEE)
        lost = account.get("unlabelled") or {}
        yield self._of(told.UNLABELLED, {(cause,): count for cause, count in lost.items()})
        yield from self._by_label(account.get("requests") or {}, told.REQUESTS)
        yield from self._table(status.get("viability") or {}, told.VIABILITY)
        yield from self._steering(status.get("steering") or {})
        yield from self._by_label(status.get("prediction") or {}, told.ERRORS, 1e-3)

    def _steering(self, figures: Mapping[str, Any]) -> Iterator[Family]:
        """What one request more would mean."""
        joules = figures.get("marginal_j")
        known: dict[tuple[str, ...], float] = {}
        if joules is not None:
            known[str(figures["token"]),] = float(joules)
        yield self._of(told.MARGINAL, known)
        yield from self._table(figures, told.HEAD_ROOM)

    def _slo(self) -> Iterator[Family]:
        """What the thresholds' error budgets are spent on."""
        events = self._status.get("slo_events") or {}
        yield self._of(told.TARGET, {(k,): one["target"] for k, one in events.items()})
        yield self._of(told.SLO_EVENTS, {(k,): one["events"] for k, one in events.items()})
        yield self._of(told.SLO_LATE, {(k,): one["late"] for k, one in events.items()})

    def _table(
        self, figures: Mapping[str, Any], metrics: Mapping[str, Metric], factor: float = 1.0
    ) -> Iterator[Family]:
        """Figures that have no further label."""
        for key, metric in metrics.items():
            if figures.get(key) is not None:
                yield self._of(metric, {(): float(figures[key]) * factor})

    def _by_label(
        self,
        tables: Mapping[str, Mapping[str, Any]],
        metrics: Mapping[str, Metric],
        factor: float = 1.0,
    ) -> Iterator[Family]:
        """Figures of tables that are told apart by one label."""
        for key, metric in metrics.items():
            yield self._of(
                metric,
                {
                    (name,): figures[key] * factor
                    for name, figures in tables.items()
                    if figures.get(key) is not None
                },
            )

    def _of(self, metric: Metric, samples: Mapping[tuple[str, ...], float]) -> Family:
        return family(
            metric, (((self._instance, *labels), float(x)) for labels, x in samples.items())
        )
