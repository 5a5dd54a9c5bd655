"""Clusters that scenarios run on, behind one interface."""

from e2e.providers.base import Cluster, Provider
from e2e.providers.control_plane import ControlPlaneProvider
from e2e.providers.existing import ExistingProvider
from e2e.providers.full_node import FullNodeProvider
from e2e.providers.kind import KindProvider

PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        ControlPlaneProvider("embedded"),
        ControlPlaneProvider("kube-apiserver"),
        FullNodeProvider(),
        KindProvider(),
        ExistingProvider(),
    )
}

__all__ = ["PROVIDERS", "Cluster", "Provider"]
