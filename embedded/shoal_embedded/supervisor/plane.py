"""The control plane as one thing: up when the block is entered, gone without a trace of processes when it is left."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import IO, Self, get_args

from shoal.crdgen.generate import definitions
from shoal.kube.client import KubeClient
from shoal.kube.errors import ApiError
from shoal.kube.kubeconfig import kubeconfig_source
from shoal.kube.resources import (
    CUSTOM_RESOURCE_DEFINITIONS,
    ENVIRONMENT_POOLS,
    NAMESPACES,
    NODES,
    RL_JOBS,
    ROLLOUT_FLEETS,
)
from shoal.kube.retry import RetryPolicy
from shoal_embedded.supervisor import leftovers, programs, scratch
from shoal_embedded.supervisor.child import Child, Program
from shoal_embedded.supervisor.errors import PlaneError, StateDirInUseError

log = logging.getLogger(__name__)

START_SECONDS = 90.0
"""A loaded machine takes 20 s for kube-apiserver; a start that takes longer than this has failed."""
START_DEATHS = 4
"""A program that has died this often during the start will not come up."""
HOPELESS_DEATHS = 8
"""A program that has died this often, never having run for half a minute, never will: half a minute of trying."""
POLL_SECONDS = 0.05


class ControlPlane:
    """API server, node and operator, kept running.

    `async with ControlPlane(state_dir) as plane:` gives a plane whose API answers, whose node is ready and whose
    CustomResourceDefinitions are installed; `plane.kubeconfig` is the way in. Leaving the block ends every process, its
    containers included; being cancelled while that goes on kills them at once. State stays in `state_dir`, so that the
    next plane there goes on with the same objects.

    Args:
        state_dir: folder of this plane alone; made when absent.
        kind: `embedded`, or `kube-apiserver` for the real one from the folder that KUBEBUILDER_ASSETS names.
        with_operator: False leaves the operator out.
        data_dir: what pods find at /var/lib/shoal; default: `data` in the state folder.
    """

    def __init__(
        self, state_dir: Path, kind: str = "embedded", *, with_operator: bool = True, data_dir: Path | None = None
    ) -> None:
        if kind not in get_args(programs.Kind):
            raise PlaneError(f"control plane {kind!r}: expected one of {', '.join(get_args(programs.Kind))}")
        self.state_dir = state_dir.resolve()
        self._kind: programs.Kind = kind  # type: ignore[assignment]
        self._with_operator = with_operator
        self._layout = programs.Layout(self.state_dir)
        self._data_dir = (data_dir or self.state_dir / "data").resolve()
        self._passing: dict[str, str] = {}
        self._children: list[Child] = []
        self._lock: IO[str] | None = None

    @property
    def kubeconfig(self) -> Path:
        """File with which kubectl and clients log in."""
        return self._layout.kubeconfig

    @property
    def children(self) -> dict[str, Child]:
        """The programs by name."""
        return {child.program.name: child for child in self._children}

    def check(self) -> None:
        """Raise `PlaneError` with the end of its log for a program that does not come up any more."""
        for child in self._children:
            if child.deaths_in_a_row >= HOPELESS_DEATHS:
                raise PlaneError(_ended(child))

    async def __aenter__(self) -> Self:
        self._take_lock()
        try:
            left = leftovers.sweep(self.state_dir)
            if left:
                log.warning("ended %d processes of a control plane that was killed", left)
            self._passing = scratch.variables(scratch.make(self.state_dir))
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End everything. When cancelled meanwhile: kill everything, then let the cancellation go on."""
        try:
            await self._stop()
        finally:
            for child in self._children:
                child.kill()
            leftovers.sweep(self.state_dir)
            self._children.clear()
            scratch.remove(self.state_dir)
            self._layout.kubeconfig.unlink(missing_ok=True)
            self._release_lock()

    # --- starting

    async def _start(self) -> None:
        if self._kind == "embedded":
            servers = programs.embedded_apiserver(self._layout)
        else:
            servers = programs.kube_apiserver(self._layout, programs.find_assets())
        for program in servers:
            self._add(program)
        async with KubeClient(kubeconfig_source(self.kubeconfig), retry=RetryPolicy(attempts=1)) as client:
            await self._until("the API server answers", lambda: self._ask(client))
            self._add(programs.node(self._layout, self._kind, self._data_dir))
            await self._install(client)
            if self._with_operator:
                self._add(programs.operator(self._layout))
            await self._until("the node is ready", lambda: client.get(NODES, programs.NODE_NAME))

    async def _ask(self, client: KubeClient) -> None:
        own = self._layout.apiserver / "kubeconfig"
        if self._kind == "embedded" and own.exists():
            # The embedded server chooses its token itself; a client that is refused reads the file again.
            self.kubeconfig.write_bytes(own.read_bytes())
        await client.get(NAMESPACES, "default")

    async def _install(self, client: KubeClient) -> None:
        for definition in definitions():

            async def apply(body: dict[str, object] = definition) -> None:
                await client.apply(CUSTOM_RESOURCE_DEFINITIONS, body)

            await self._until("Shoal's definitions are taken", apply)
        for resource in (RL_JOBS, ENVIRONMENT_POOLS, ROLLOUT_FLEETS):
            await self._until(f"{resource} are served", partial(client.list, resource))

    def _add(self, program: Program) -> None:
        variables = {name: value for name, value in os.environ.items() if name not in ("KUBECONFIG",)}
        child = Child(program, self._layout.logs, {**variables, **self._passing, **leftovers.marks(self.state_dir)})
        self._children.append(child)
        child.start()

    async def _until(self, what: str, attempt: Callable[[], Awaitable[object]]) -> None:
        """Try until it works. Raises `PlaneError` with the end of the log of the program at fault."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                await attempt()
                return
            except (ApiError, OSError) as error:
                problem = error
            for child in self._children:
                if child.deaths >= START_DEATHS:
                    raise PlaneError(_ended(child))
            if time.monotonic() > end:
                raise PlaneError(f"waited {START_SECONDS:g} s in vain until {what}: {problem}")
            await asyncio.sleep(POLL_SECONDS)

    # --- ending

    async def _stop(self) -> None:
        """The operator and the node first, together; then what they talk to, the last started first."""
        clients = [child for child in self._children if child.program.name in ("operator", "node")]
        await asyncio.gather(*(child.stop() for child in clients))
        for child in reversed(self._children):
            await child.stop()

    # --- the folder is one plane's

    def _take_lock(self) -> None:
        self.state_dir.mkdir(parents=True, exist_ok=True)
        lock = (self.state_dir / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise StateDirInUseError(f"{self.state_dir} is in use by a control plane (process {holder})") from None
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def _release_lock(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.truncate(0)
            self._lock.close()
            self._lock = None


def _ended(child: Child) -> str:
    return f"{child.program.name} does not start ({child.log}):\n{child.last_words()}"
