"""The process around a manager: kopf, which brings signals, login with re-authentication, and probes.

kopf watches nothing here. Its `on.event` does not report what was deleted between two watches, and its queues have
limits of their own; the reflectors do that work. What it is good at stays with it: it runs the start-up and clean-up
activities, ends the process on SIGTERM, keeps the credentials in a vault, logs in again when the server refuses them
and answers the liveness probe.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

from shoal.engine.endpoint import Endpoint
from shoal.engine.manager import Manager
from shoal.kube.client import KubeClient
from shoal.kube.credentials import Credentials, CredentialsError, CredentialsSource, credentials_from_kopf

log = logging.getLogger(__name__)

Build = Callable[[KubeClient], Awaitable[Manager]]
"""Makes the manager, given a client that is logged in."""

LOGIN_LIFETIME = timedelta(minutes=10)
"""After this kopf logs in anew, so that rotated service-account tokens are read. It also makes each login differ from
the last: kopf never uses again what the server has refused once, not even when the refusal was a passing fault."""
LOGIN_PAUSE = 1.0
"""Seconds between logins, or a server that refuses everything would be asked without end."""
STARTUP_PAUSES = (1.0, 2.0, 5.0, *(15.0,) * 240)
"""kopf's waits when the server is away while it starts: it may come up after us."""


@dataclass(frozen=True, slots=True)
class ShellSettings:
    """How the process shows itself.

    Args:
        listen: "HOST:PORT" for /healthz, /readyz and /metrics; empty for none.
        liveness: URL such as "http://127.0.0.1:8080/healthz" where kopf answers the liveness probe; empty for none.
        namespace: the one namespace to work in; None for all.
        exit_seconds: after a signal, the process is killed when it has not ended within this.
    """

    listen: str = ""
    liveness: str = ""
    namespace: str | None = None
    exit_seconds: float = 25.0


async def run_shell(source: CredentialsSource, build: Build, settings: ShellSettings | None = None) -> None:
    """Run the manager that `build` makes until SIGTERM, SIGINT or a failure, whose error is raised.

    Raises `CredentialsError` at once when `source` has nothing to log in with.
    """
    await source.current()
    await _Shell(import_kopf(), source, build, settings or ShellSettings()).run()


def import_kopf() -> ModuleType:
    """Import kopf without the official client, which it would load where it is installed, to recognise its classes.

    That client costs 0.3 s and 30 MB, and nothing here gives kopf an object of it.
    """
    hidden = {name: sys.modules.get(name) for name in ("kubernetes", "kubernetes_asyncio", "pykube")}
    for name, module in hidden.items():
        if module is None:
            sys.modules[name] = None  # type: ignore[assignment]  # makes an import of this name fail
    try:
        import kopf
    finally:
        for name, module in hidden.items():
            if module is None:
                sys.modules.pop(name, None)
    return kopf


class VaultSource:
    """Credentials out of kopf's vault; a refusal goes back to it, and kopf logs in again."""

    def __init__(self, vault: Any) -> None:
        self._vault = vault
        self._key: Any = None
        self._info: Any = None
        self._credentials: Credentials | None = None

    async def current(self) -> Credentials:
        """Return the vault's credentials; waits for the first login."""
        if self._credentials is None or self._expired():
            async with aclosing(aiter(self._vault)) as items:
                try:
                    self._key, self._info = await anext(items)
                except import_kopf().LoginError as error:
                    raise CredentialsError(str(error)) from error
            self._credentials = credentials_from_kopf(self._info)
        return self._credentials

    async def refresh(self, refused: Credentials) -> Credentials:
        """Report a refusal and wait for the next login, unless there has been one since."""
        if self._credentials == refused:
            key, info, self._credentials = self._key, self._info, None
            await self._vault.invalidate(key, info)
        return await self.current()

    def _expired(self) -> bool:
        expiration = self._info.expiration
        return expiration is not None and datetime.now(UTC) >= expiration


class _Shell:
    def __init__(self, kopf: ModuleType, source: CredentialsSource, build: Build, settings: ShellSettings) -> None:
        # The vault has no public name; it is an argument of kopf.operator all the same.
        from kopf._cogs.structs.credentials import Vault

        self._kopf = kopf
        self._source = source
        self._build = build
        self._settings = settings
        self._vault = Vault()
        self._stop = asyncio.Event()
        self._manager: Manager | None = None
        self._task: asyncio.Task[None] | None = None
        self._logged_in: Credentials | None = None
        self._login_at = float("-inf")

    async def run(self) -> None:
        kopf = self._kopf
        registry = kopf.OperatorRegistry()
        kopf.on.startup(registry=registry)(self._startup)
        kopf.on.login(registry=registry)(self._login)
        kopf.on.probe(id="manager", registry=registry, errors=kopf.ErrorsMode.PERMANENT)(self._probe)
        kopf.on.cleanup(registry=registry)(self._cleanup)
        logging.getLogger("kopf").setLevel(logging.WARNING)
        namespace = self._settings.namespace
        await kopf.operator(
            registry=registry,
            settings=self._kopf_settings(),
            vault=self._vault,
            standalone=True,
            clusterwide=namespace is None,
            namespaces=[namespace] if namespace else [],
            liveness_endpoint=self._settings.liveness or None,
            stop_flag=self._stop,
        )
        if self._task is not None and not self._task.cancelled():
            await self._task

    def _kopf_settings(self) -> Any:
        settings = self._kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True
        settings.peering.standalone = True
        settings.persistence.finalizer = "rl.shoal.dev/operator"
        settings.networking.error_backoffs = STARTUP_PAUSES
        settings.process.ultimate_exiting_timeout = self._settings.exit_seconds
        return settings

    # --- kopf's activities

    async def _startup(self, **_: object) -> None:
        # In the background: kopf logs in only after this activity has ended.
        self._task = asyncio.create_task(self._serve(), name="manager")
        self._task.add_done_callback(lambda _: self._stop.set())

    async def _serve(self) -> None:
        async with KubeClient(VaultSource(self._vault)) as client:
            manager = await self._build(client)
            if self._settings.listen:
                manager.add_background("endpoint", Endpoint(manager, self._settings.listen).run)
            self._manager = manager
            await manager.run()

    async def _login(self, **_: object) -> Any:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._login_at + LOGIN_PAUSE - loop.time()))
        self._login_at = loop.time()
        while True:
            try:
                if self._logged_in is None:
                    self._logged_in = await self._source.current()
                else:
                    self._logged_in = await self._source.refresh(self._logged_in)
                return self._connection_info(self._logged_in)
            except CredentialsError as error:
                log.warning("cannot log in, trying again: %s", error)
                await asyncio.sleep(LOGIN_PAUSE)

    async def _probe(self, **_: object) -> dict[str, bool]:
        if self._task is None or self._task.done():
            raise RuntimeError("the manager is not running")
        manager = self._manager
        return {"synced": manager is not None and manager.synced, "leading": manager is not None and manager.leading}

    async def _cleanup(self, **_: object) -> None:
        task = self._task
        if task is None:
            return
        if self._manager is not None:
            self._manager.stop()
        else:
            task.cancel()
        done, _running = await asyncio.wait({task}, timeout=self._settings.exit_seconds * 0.8)
        if not done:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def _connection_info(self, credentials: Credentials) -> Any:
        return self._kopf.ConnectionInfo(
            server=credentials.server,
            ca_data=credentials.ca,
            insecure=credentials.insecure or None,
            username=credentials.username,
            password=credentials.password,
            token=credentials.token,
            certificate_data=credentials.client_certificate,
            private_key_data=credentials.client_key,
            default_namespace=credentials.namespace,
            proxy_url=credentials.proxy_url,
            expiration=datetime.now(UTC) + LOGIN_LIFETIME,
        )
