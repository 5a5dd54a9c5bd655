"""What the gateway tells about its fleet."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shoal.api.services.models import EnginePhase, GatewayEngine, GatewayStatus, WeightsState
from shoal_workers.gateway.admission import Admission
from shoal_workers.gateway.calls import Calls
from shoal_workers.gateway.engines import Engines
from shoal_workers.gateway.known import Known
from shoal_workers.telemetry import names


class Overview(Collector):
    """Puts together the gateway's status and metrics when they are asked for."""

    def __init__(self, engines: Engines, admission: Admission, calls: Calls) -> None:
        self._engines = engines
        self._admission = admission
        self._calls = calls
        self._began = monotonic()

    def status(self) -> GatewayStatus:
        """The fleet now."""
        figures = self._calls.figures
        engines = [self._engine(known) for known in self._engines.known.values()]
        versions = [engine.weight_version for engine in engines if engine.routed] or [e.weight_version for e in engines]
        latencies = sorted(figures.latencies)
        target = self._engines.target
        return GatewayStatus(
            run=target.run if target else "",
            target_version=target.version if target else 0,
            min_version=min(versions, default=-1),
            max_version=max(versions, default=-1),
            engines=sorted(engines, key=lambda engine: engine.name),
            queued=self._admission.queued,
            running=self._admission.running,
            requests=figures.requests,
            retries=figures.retries,
            errors=figures.errors,
            refused=self._admission.refused,
            latency_p50=quantile(latencies, 0.5),
            latency_p99=quantile(latencies, 0.99),
            updates=self._engines.updates,
            update_seconds=self._engines.update_seconds,
            update_error=self._engines.update_error,
            findings=self._engines.findings(),
            served_while_updating=figures.served_while_updating,
            uptime_seconds=monotonic() - self._began,
        )

    def weights(self) -> WeightsState:
        """The target, and what each engine has."""
        every = sorted(self._engines.known.items())
        return WeightsState(
            target=self._engines.target,
            engines={name: known.member.key.version for name, known in every},
            loading=sorted({known.loading for _, known in every if known.loading is not None}),
        )

    def collect(self) -> list[Metric]:
        """The metrics now."""
        status = self.status()
        return [
            CounterMetricFamily(names.GATEWAY_REQUESTS, "Model calls.", value=status.requests),
            CounterMetricFamily(names.GATEWAY_RETRIES, "Calls taken to another engine.", value=status.retries),
            CounterMetricFamily(names.GATEWAY_REFUSED, "Calls refused at the queue's limit.", value=status.refused),
            CounterMetricFamily(names.GATEWAY_UPDATES, "Engines updated.", value=status.updates),
            CounterMetricFamily(
                names.GATEWAY_UPDATE_SECONDS, "Seconds of updates, summed.", value=status.update_seconds
            ),
            GaugeMetricFamily(names.GATEWAY_QUEUED, "Calls that wait for an engine.", value=status.queued),
            GaugeMetricFamily(names.GATEWAY_RUNNING, "Calls at engines.", value=status.running),
            GaugeMetricFamily(names.GATEWAY_TARGET_VERSION, "Newest weight version.", value=status.target_version),
            GaugeMetricFamily(names.GATEWAY_MIN_VERSION, "Oldest weight version served.", value=status.min_version),
        ]

    def _engine(self, known: Known) -> GatewayEngine:
        report, member = known.report, known.member
        phase = report.status.phase
        if not member.intact or known.lost:
            phase = EnginePhase.FAILED
        elif member.updating:
            phase = EnginePhase.UPDATING
        elif known.draining:
            phase = EnginePhase.DRAINING
        # The gateway's own count of requests is newer than the engine's last report.
        running = self._admission.in_flight(report.name)
        return GatewayEngine(
            name=report.name,
            url=report.url,
            phase=phase,
            weight_version=member.key.version,
            running=running,
            waiting=min(running, report.status.waiting),
            kv_use=report.status.kv_use,
            routed=report.name in self._engines.serving,
            age=self._engines.age(known),
            busy_seconds=report.status.busy_seconds,
            uptime_seconds=report.status.uptime_seconds,
            detail=known.detail or report.status.detail,
        )


def quantile(ordered: Iterable[float], share: float) -> float:
    """The value below which `share` of the ordered values lie; 0 for none."""
    values = list(ordered)
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0
