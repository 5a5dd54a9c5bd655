"""One container of a pod: starts, stops, probes it and notes what becomes of it."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from shoal_embedded.node import process
from shoal_embedded.node.decide import after_end
from shoal_embedded.node.failures import StartError
from shoal_embedded.node.logfiles import LogFile
from shoal_embedded.node.podspec import Container, Pod
from shoal_embedded.node.probes import Target, run_handler
from shoal_embedded.node.procfs import environment
from shoal_embedded.node.records import LOST, NODE_SHUTDOWN, Ended, PodFolder
from shoal_embedded.node.rewriting import Rewriter
from shoal_embedded.node.surroundings import ATTEMPT_MARK, CONTAINER_MARK, NODE_MARK, POD_MARK, Surroundings
from shoal_embedded.node.variables import Setting, build_command, build_environment
from shoal_embedded.node.volumes import VolumeMaker
from shoal_embedded.node.watching import Watch

Json = dict[str, Any]
log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
"""Until a start that lacked something (a Secret, a directory) is tried again, when no change is seen before."""
MESSAGE_LIMIT = 4096
LOGS_KEPT = 2
"""Runs of a container whose logs are kept: this one and the one before, which `logs --previous` shows."""


class ContainerRunner:
    """The life of one container. `changed` is called after every change of its record."""

    def __init__(
        self,
        container: Container,
        folder: PodFolder,
        around: Surroundings,
        setting: Setting,
        changed: Callable[[], None],
    ) -> None:
        self.container = container
        self.record = folder.load_container(container.name)
        self.run: process.Run | None = None
        self._folder = folder
        self._around = around
        self._setting = setting
        self._changed = changed
        self._current_log: LogFile | None = None
        self._watch: asyncio.Task[None] | None = None
        self._end_task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._working_folder = str(folder.path)
        self._message_path = str(container.body.get("terminationMessagePolicy") or "File")

    # --- starting

    async def start(self, pod: Pod) -> None:
        """Start it, or note in the record why not."""
        record = self.record
        try:
            run = await process.launch(self._plan(pod))
        except StartError as error:
            await self._cannot_start(pod, error)
            return
        except (KeyError, TypeError, ValueError, OSError) as error:
            # A pod that the API server took although it makes no sense is that pod's trouble, not the node's.
            await self._cannot_start(pod, StartError(f"{type(error).__name__}: {error}"))
            return
        now = time.time()
        record.attempt += 1
        record.last, record.ended = record.ended or record.last, None
        record.waiting_reason = record.waiting_message = record.kill_reason = ""
        record.shim, record.started_at = run.shim, now
        record.started = record.ready = record.stopping = False
        self._save()
        self._forget_old_logs()
        self._follow(pod, run, started=False)
        await self._event(pod, "Normal", "Started", f"Started container {record.name}")
        hook = (self.container.body.get("lifecycle") or {}).get("postStart")
        if hook:
            self._spawn(self._post_start(pod, hook))
        self._changed()

    async def _cannot_start(self, pod: Pod, error: StartError) -> None:
        record = self.record
        first = record.waiting_message != str(error)
        record.waiting_reason, record.waiting_message = error.reason, str(error)
        record.retry_at = time.time() + RETRY_SECONDS
        if first:
            await self._event(pod, "Warning", "Failed", f"Error: {error}")
        self._changed()

    def adopt(self, pod: Pod) -> None:
        """Take over the run that the record names, after a restart of the node."""
        record = self.record
        if record.shim is None:
            return
        run_file = self._folder.run_file(record.name, record.attempt)
        run = process.adopt(record.shim, run_file)
        record.stopping = record.ready = False
        if run is None:
            self._end(pod, process.LOST_EXIT_CODE, LOST, "the process was gone when the node came back")
            return
        self._working_folder = self._folder_of_work()
        self._follow(pod, run, started=record.started)

    def _plan(self, pod: Pod) -> process.Launch:
        container, record = self.container, self.record
        volumes = VolumeMaker(pod, self._folder, self._around.volume_sources, self._setting)
        rewrite = Rewriter(volumes.mounts(container), self._around.service_address)
        variables = build_environment(pod, container, self._around.objects, self._setting, rewrite)
        command = build_command(container, variables, rewrite)
        self._working_folder = rewrite(str(container.body.get("workingDir") or "")) or self._folder_of_work()
        attempt = record.attempt + 1
        last_words = self._folder.termination_log(record.name)
        last_words.parent.mkdir(parents=True, exist_ok=True)
        last_words.write_bytes(b"")
        variables |= {
            "SHOAL_TERMINATION_LOG": str(last_words),
            NODE_MARK: str(self._around.folder),
            POD_MARK: pod.uid,
            CONTAINER_MARK: record.name,
            ATTEMPT_MARK: str(attempt),
        }
        return process.Launch(
            command,
            variables,
            self._working_folder,
            self._folder.log(record.name, attempt),
            self._folder.run_file(record.name, attempt),
        )

    def _folder_of_work(self) -> str:
        path = self._folder.path / "work"
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    # --- running

    def _follow(self, pod: Pod, run: process.Run, *, started: bool) -> None:
        self.run = run
        self._end_task = self._spawn(self._until_end(pod, run))
        if self.record.shim is not None:
            target = self._target()
            watch = Watch(target, self._set_started, self._ready_setter(pod), self._sick_setter(pod))
            self._watch = self._spawn(watch.run(started=started))

    def _target(self) -> Target:
        assert self.record.shim is not None
        return Target(self._setting.pod_ip, self.container, environment(self.record.shim.pid), self._working_folder)

    def beside(self, pod: Pod, command: list[str]) -> tuple[list[str], Target]:
        """A command for this container as it runs, with real paths in place of mounted ones, and its surroundings."""
        volumes = VolumeMaker(pod, self._folder, self._around.volume_sources, self._setting)
        mounts = volumes.mounts(self.container)
        rewrite = Rewriter(mounts, self._around.service_address)
        real = [rewrite(word) for word in command]
        if real[:2] == ["tar", "cf"]:
            # `kubectl cp` looks in the archive for the paths that it has asked for.
            real += [f"--transform=s|^{path.strip('/')}|{mount.strip('/')}|" for mount, path in mounts.items()]
        return real, self._target()

    async def _until_end(self, pod: Pod, run: process.Run) -> None:
        code = await run.ended()
        reason = self.record.kill_reason or ("Completed" if code == 0 else "Error")
        if code == 0 and reason == NODE_SHUTDOWN:
            # It has not done its work by that; and kube-apiserver lets nothing start again that has ended with 0.
            code = process.TERMINATED_EXIT_CODE
        self._end(pod, code, reason, self._last_message(code))

    def _end(self, pod: Pod, code: int, reason: str, message: str) -> None:
        record, now = self.record, time.time()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self.run = None
        record.ended = Ended(code, reason, message, record.started_at, now)
        record.shim = None
        record.ready = record.started = record.stopping = False
        if record.ended.by_node:
            record.retry_at = now  # no crash that a restart has to wait for
        else:
            after_end(record, now, self._around.backoff)
        self._save()
        log.info("container %s of %s/%s ended with %d (%s)", record.name, pod.namespace, pod.name, code, reason)
        if code != 0 and not pod.deleting:
            self._spawn(self._event(pod, "Warning", "BackOff", f"Container {record.name} ended with {code}: {reason}"))
        self._changed()

    def _last_message(self, code: int) -> str:
        words = b""
        path = self._folder.termination_log(self.record.name)
        if path.exists():
            words = path.read_bytes()[:MESSAGE_LIMIT]
        text = words.decode(errors="replace").strip()
        if not text and code != 0 and self._message_path == "FallbackToLogsOnError":
            text = self.log_file().last_words()
        return text

    # --- stopping

    def stop(self, pod: Pod, grace: float, reason: str = "") -> None:
        """Begin to stop it: hook, SIGTERM, SIGKILL after `grace` seconds. Returns at once.

        `reason` stands as the reason of its end, in place of what its exit code says.
        """
        if self.run is not None and not self.record.stopping:
            self.record.kill_reason = reason or self.record.kill_reason
            self.record.stopping = True
            self.record.ready = False
            self._spawn(self._stop(pod, self.run, grace))

    async def until_stopped(self) -> None:
        """Return once no process of it runs."""
        if self._end_task is not None:
            await asyncio.wait({self._end_task})

    def kill(self, reason: str = "") -> None:
        """Kill every process of it now."""
        if self.run is not None:
            self.record.kill_reason = reason or self.record.kill_reason
            self.run.kill()

    async def _stop(self, pod: Pod, run: process.Run, grace: float) -> None:
        deadline = time.monotonic() + grace
        hook = (self.container.body.get("lifecycle") or {}).get("preStop")
        if hook and self.record.shim is not None and grace > 0:
            try:
                async with asyncio.timeout(grace):
                    problem = await run_handler(hook, self._target())
            except (TimeoutError, OSError, ValueError, StartError) as error:
                problem = str(error) or "timeout"
            if problem:
                await self._event(pod, "Warning", "FailedPreStopHook", problem)
        if grace > 0:
            run.signal(signal.SIGTERM)
            # Two seconds at least after the signal, as kubelet gives when the hook has used the time up.
            await asyncio.sleep(max(min(grace, 2.0), deadline - time.monotonic()))
        if self.run is run:
            run.kill()

    async def _post_start(self, pod: Pod, hook: Json) -> None:
        try:
            problem = await run_handler(hook, self._target())
        except (OSError, ValueError, StartError) as error:
            problem = str(error)
        if problem:
            await self._event(pod, "Warning", "FailedPostStartHook", problem)
            self.stop(pod, pod.grace)

    # --- what probes tell

    def _set_started(self) -> None:
        if not self.record.started:
            self.record.started = self.record.was_up = True
            self._save()
            self._changed()

    def _ready_setter(self, pod: Pod) -> Callable[[bool, str], None]:
        def set_ready(ready: bool, problem: str) -> None:
            ready = ready and not self.record.stopping
            if problem:
                self._spawn(self._event(pod, "Warning", "Unhealthy", f"Readiness probe failed: {problem}"))
            if self.record.ready is not ready:
                self.record.ready = ready
                self._changed()

        return set_ready

    def _sick_setter(self, pod: Pod) -> Callable[[str, str], None]:
        def set_sick(which: str, problem: str) -> None:
            message = f"{which} probe failed: {problem}; container {self.record.name} will be restarted"
            self._spawn(self._event(pod, "Warning", "Unhealthy", message))
            probe = self.container.probe(which.lower()) or {}
            self.stop(pod, float(probe.get("terminationGracePeriodSeconds") or pod.grace))
            self._changed()

        return set_sick

    # --- logs and housekeeping

    @property
    def current_log(self) -> LogFile:
        """The log of this run, the same object for as long as the run lasts (it remembers what it has noted)."""
        path = self._folder.log(self.record.name, self.record.attempt)
        if self._current_log is None or self._current_log.path != path:
            self._current_log = LogFile(path)
        return self._current_log

    def log_file(self, *, previous: bool = False) -> LogFile:
        """Return the log of this run or of the one before."""
        return LogFile(self._folder.log(self.record.name, self.record.attempt - (1 if previous else 0)))

    def release(self) -> None:
        """Stop watching; the processes go on, to be adopted by the next node."""
        for task in self._tasks:
            task.cancel()
        if self.run is not None:
            self.run.close()

    def _forget_old_logs(self) -> None:
        attempt = self.record.attempt - LOGS_KEPT
        for path in self._folder.container(self.record.name).glob(f"{attempt}.*"):
            Path(path).unlink(missing_ok=True)

    def _save(self) -> None:
        self._folder.save_container(self.record)

    async def _event(self, pod: Pod, level: str, reason: str, message: str) -> None:
        await self._around.events.record(pod.reference(), level, reason, message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("container %s: %r", self.record.name, task.exception(), exc_info=task.exception())
