"""Counters, gauges and histograms in Prometheus' text format; small, because an operator at rest should be."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

Labels = tuple[str, ...]
SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)
"""Histogram bounds for durations of reconciles and requests."""


class Metric:
    """A named family; subclasses give its samples."""

    kind = "untyped"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.text = text
        self.labels = tuple(labels)

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """Yield suffix of the name, labels and value of each sample."""
        raise NotImplementedError

    def _named(self, values: Labels) -> dict[str, str]:
        return dict(zip(self.labels, values, strict=True))


class Counter(Metric):
    """A number per combination of label values that only grows."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, text, labels)
        self._values: dict[Labels, float] = {}

    def add(self, *values: str, by: float = 1.0) -> None:
        """Count `by` for these label values, given in the order of the labels."""
        self._values[values] = self._values.get(values, 0.0) + by

    def value(self, *values: str) -> float:
        """Return the count for these label values."""
        return self._values.get(values, 0.0)

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """Yield one sample per combination of label values."""
        for values, count in self._values.items():
            yield "", self._named(values), count


class Gauge(Metric):
    """A number read when it is asked for."""

    kind = "gauge"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, text, labels)
        self._readers: dict[Labels, Callable[[], float]] = {}

    def read(self, reader: Callable[[], float], *values: str) -> None:
        """Use `reader` as the gauge of these label values."""
        self._readers[values] = reader

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """Yield one sample per reader."""
        for values, reader in self._readers.items():
            yield "", self._named(values), float(reader())


class Histogram(Metric):
    """Counts of observations up to each bound, their number and their sum."""

    kind = "histogram"

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), bounds: Sequence[float] = SECONDS) -> None:
        super().__init__(name, text, labels)
        self._bounds = tuple(bounds)
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, value: float, *values: str) -> None:
        """Count one observation for these label values."""
        counts = self._counts.setdefault(values, [0] * (len(self._bounds) + 1))
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[values] = self._sums.get(values, 0.0) + value

    def count(self, *values: str) -> int:
        """Return the number of observations for these label values."""
        return sum(self._counts.get(values, ()))

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """Yield the cumulative buckets, the count and the sum of each combination of label values."""
        for values, counts in self._counts.items():
            labels, total = self._named(values), 0
            for bound, count in zip((*map(repr, self._bounds), "+Inf"), counts, strict=True):
                total += count
                yield "_bucket", {**labels, "le": bound}, float(total)
            yield "_count", labels, float(total)
            yield "_sum", labels, self._sums[values]


MetricT = TypeVar("MetricT", bound=Metric)


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}
        self.reconciles = self._new(
            Counter("shoal_reconciles_total", "Reconciles by controller and result.", ("controller", "result"))
        )
        self.reconcile_seconds = self._new(
            Histogram("shoal_reconcile_seconds", "Duration of reconciles.", ("controller",))
        )
        self.queue_depth = self._new(Gauge("shoal_queue_depth", "Keys ready to be reconciled.", ("controller",)))
        self.queue_delayed = self._new(Gauge("shoal_queue_delayed", "Keys with a later wake-up.", ("controller",)))
        self.api_requests = self._new(
            Counter("shoal_api_requests_total", "Kubernetes API requests.", ("verb", "resource", "status"))
        )
        self.api_seconds = self._new(
            Histogram("shoal_api_request_seconds", "Time until an API answer began.", ("verb",))
        )
        self.cached_objects = self._new(Gauge("shoal_cached_objects", "Objects in the cache.", ("resource",)))
        self.relists = self._new(Gauge("shoal_lists", "Times the whole list was read.", ("resource",)))
        self.leading = self._new(Gauge("shoal_leading", "Whether this process is the leader."))

    def _new(self, metric: MetricT) -> MetricT:
        self._families[metric.name] = metric
        return metric

    def add(self, metric: MetricT) -> MetricT:
        """Have a metric of a controller rendered with the others. Raises `ValueError` for a name in use."""
        if metric.name in self._families:
            raise ValueError(f"metric {metric.name} exists")
        return self._new(metric)

    def observe_request(self, verb: str, resource: str, status: int, seconds: float) -> None:
        """Count one API request; fits `KubeClient.observe`."""
        self.api_requests.add(verb, resource, str(status))
        self.api_seconds.observe(seconds, verb)

    def render(self) -> str:
        """Return all metrics as Prometheus' text format 0.0.4."""
        lines: list[str] = []
        for family in self._families.values():
            lines += [f"# HELP {family.name} {family.text}", f"# TYPE {family.name} {family.kind}"]
            lines += [
                f"{family.name}{suffix}{_braced(labels)} {_number(value)}" for suffix, labels, value in family.samples()
            ]
        return "\n".join(lines) + "\n"


def _braced(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    escaped = (
        (name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels.items()
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"


def _number(value: float) -> str:
    # `%g` would round a counter above a million.
    return str(int(value)) if value.is_integer() else repr(value)
