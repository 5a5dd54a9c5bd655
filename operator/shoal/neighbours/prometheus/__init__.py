"""Prometheus Operator: the chart makes its objects; the operator only says in its log whether it is there."""

from typing import ClassVar

from shoal.kube.discovery import Kind, Need
from shoal.neighbours.neighbour import Neighbour


class PrometheusOperator(Neighbour):
    """Prometheus Operator."""

    need: ClassVar[Need] = Need(
        "prometheus-operator", "monitoring.coreos.com", ("v1",), (Kind("podmonitors", "PodMonitor"),)
    )


__all__ = ["PrometheusOperator"]
