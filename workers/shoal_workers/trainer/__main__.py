"""The process of a trainer pod: `python -m shoal_workers.trainer`."""

from shoal.api.services.roles.trainer import TrainerConfig
from shoal_workers.service import launch
from shoal_workers.trainer.server import build

if __name__ == "__main__":
    launch("trainer", TrainerConfig, build)
