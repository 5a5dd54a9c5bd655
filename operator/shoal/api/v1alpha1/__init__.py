"""The resources of group rl.shoal.dev, version v1alpha1: the source of crds/."""

from shoal.api.v1alpha1.common import API_VERSION, GROUP, VERSION
from shoal.api.v1alpha1.environmentpool import EnvironmentPool
from shoal.api.v1alpha1.rljob import RLJob
from shoal.api.v1alpha1.rolloutfleet import RolloutFleet

KINDS = (EnvironmentPool, RolloutFleet, RLJob)

__all__ = ["API_VERSION", "GROUP", "KINDS", "VERSION", "EnvironmentPool", "RLJob", "RolloutFleet"]
