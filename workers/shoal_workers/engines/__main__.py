"""The process of an engine pod: `python -m shoal_workers.engines`."""

from shoal.api.services.roles.engine import EngineConfig
from shoal_workers.service import ConfigurationError, launch, load_config


def main() -> None:
    """Prepare the process for the inference library, then serve."""
    try:
        config = load_config(EngineConfig)
    except ConfigurationError:
        config = None
    if config is not None and config.type == "VLLM":
        from shoal_workers.engines.vllm_settings import prepare_process

        prepare_process(config)
    from shoal_workers.engines.server import build

    launch("engine", EngineConfig, build)


if __name__ == "__main__":
    main()
