"""The service of an engine pod."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shoal.api.addresses import http_url
from shoal.api.services.models import EnginePhase
from shoal.api.services.roles.engine import EngineConfig
from shoal_workers.engines.core import Core, CoreError
from shoal_workers.engines.engine import Engine
from shoal_workers.engines.registration import Registration
from shoal_workers.engines.routes import add_routes
from shoal_workers.engines.vllm_flags import check_arguments
from shoal_workers.engines.weights import Verifier
from shoal_workers.service import ConfigurationError, Identity, Service, ServiceClient, Token, credential
from shoal_workers.service.config import write_termination_message
from shoal_workers.telemetry import names

# Time for callers to be told that their requests failed, before the process goes and is replaced.
FAREWELL_SECONDS = 0.5

logger = logging.getLogger(__name__)


def build(config: EngineConfig, identity: Identity) -> Service:
    """The service; raises ConfigurationError for a model that cannot be there."""
    check_model(config.model)
    core = make_core(config, identity.name)
    engine = Engine(identity.name, core, verifier=Verifier(config.model), on_failure=_on_core_lost)
    return make_service(
        config, engine, uid=identity.uid, url=http_url(identity.ip, config.port), token=credential(), fail=_die
    )


def make_core(config: EngineConfig, name: str) -> Core:
    """The core a configuration names. Each engine has a seed of its own, or all would sample the same tokens."""
    seed = (config.seed + zlib.crc32(name.encode())) % 2**31
    if config.type == "Reference":
        if config.args:
            raise ConfigurationError("SHOAL_CONFIG.args", "the Reference engine takes no arguments")
        from shoal_workers.engines.reference import ReferenceCore

        return ReferenceCore(config.model, config.max_model_len, config.dtype, seed)
    from shoal_workers.engines.vllm_parsers import split_flags

    try:
        _, own = split_flags(config.args)
    except CoreError as error:
        raise ConfigurationError("SHOAL_CONFIG.args", str(error)) from None
    check_arguments(own)
    from shoal_workers.engines.vllm_core import VllmCore

    return VllmCore(config, seed)


def make_service(
    config: EngineConfig,
    engine: Engine,
    *,
    uid: str = "",
    url: str = "",
    token: Token = None,
    fail: Callable[[str, int], object] | None = None,
) -> Service:
    """The service of an engine. `fail(reason, exit code)` is called when the model cannot be loaded."""
    service = Service("engine", engine.status, token=token)
    add_routes(service, engine)
    service.registry.register(_Metrics(engine))
    service.lives_with(lambda: _life(service, engine, fail))
    if config.gateway_url:
        client = ServiceClient(config.gateway_url, token=token)
        registration = Registration(engine, client, uid=uid, url=url, interval=config.report_seconds)
        service.lives_with(registration.running)
    service.before_stop(engine.drain)
    return service


def check_model(model: str) -> None:
    """Refuse a folder that is no model, before seconds go into loading libraries. Hub names are left to the engine."""
    folder = Path(model)
    if not folder.is_absolute() and not folder.is_dir():
        return
    if not folder.is_dir():
        raise ConfigurationError("SHOAL_CONFIG.model", f"{model}: no such folder")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError("SHOAL_CONFIG.model", f"{error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError("SHOAL_CONFIG.model", f"{folder / 'config.json'}: not JSON: {error}") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise ConfigurationError("SHOAL_CONFIG.model", f"{folder / 'config.json'}: has no model_type")


@asynccontextmanager
async def _life(service: Service, engine: Engine, fail: Callable[[str, int], object] | None) -> AsyncIterator[None]:
    """Load the model while the probes are answered already."""

    async def start() -> None:
        try:
            await engine.start()
        except Exception as error:
            service.set_not_ready(str(error))
            logger.error("the model cannot be served", extra={"detail": str(error)})
            if fail is not None:
                fail(f"engine: {error}", 2 if isinstance(error, CoreError) else 1)
            return
        if engine.phase is EnginePhase.READY:
            service.set_ready()
            logger.info("ready", extra={"engine": engine.name})

    task = asyncio.create_task(start())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await engine.close()


def _on_core_lost(error: BaseException) -> None:
    reason = f"engine: lost its core: {type(error).__name__}: {error}"
    logger.error("the core is lost", exc_info=error)
    asyncio.get_running_loop().call_later(FAREWELL_SECONDS, _die, reason, 1)


def _die(reason: str, code: int) -> NoReturn:
    """End now. Nothing is left to close properly, and a library that is broken may not let the interpreter end."""
    line = " ".join(reason.split())
    write_termination_message(line)
    os.write(2, f"{line}\n".encode())
    os._exit(code)


class _Metrics(Collector):
    """An engine's counters, read when they are asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> list[Metric]:
        """The metrics now."""
        status = self._engine.status()
        return [
            CounterMetricFamily(
                names.ENGINE_BUSY_SECONDS, "Seconds with a request executing.", value=status.busy_seconds
            ),
            CounterMetricFamily(names.ENGINE_TOKENS, "Tokens generated.", value=status.generated_tokens),
            CounterMetricFamily(names.ENGINE_REQUESTS, "Requests accepted.", value=status.requests),
            GaugeMetricFamily(names.ENGINE_RUNNING, "Requests executing.", value=status.running),
            GaugeMetricFamily(names.ENGINE_WAITING, "Requests waiting.", value=status.waiting),
            GaugeMetricFamily(names.ENGINE_KV_USE, "Fraction of the KV cache in use.", value=status.kv_use),
            GaugeMetricFamily(names.ENGINE_WEIGHT_VERSION, "Weight version served.", value=status.weight_version),
        ]
