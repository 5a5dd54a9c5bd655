"""A real Kubernetes API server for tests: etcd, kube-apiserver and, on request, kube-controller-manager.

The programs come from the folder named by `KUBEBUILDER_ASSETS` (the convention of envtest), else from the install
script in the folder `shared/kube` beside the checkout. Nothing needs root; ports are random, state lies in a temporary
folder and every process ends with the one that started it, even when that one is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import yaml

READY_SECONDS = 60.0
"""A loaded machine starts both servers in 1 to 20 seconds; a start that takes longer has failed."""

PR_SET_PDEATHSIG = 1
_REPOSITORY = Path(__file__).resolve().parent.parent


class ProgramsMissingError(Exception):
    """The programs are not on this machine; the text says what to set. Tests skip with it."""


def find_programs(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder that holds etcd, kube-apiserver and kubectl, or raise `ProgramsMissingError`."""
    named = environ.get("KUBEBUILDER_ASSETS")
    if named:
        folder = Path(named)
    else:
        install = _REPOSITORY.parent / "shared" / "kube" / "install"
        if not install.exists():
            raise ProgramsMissingError("set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver and kubectl")
        done = subprocess.run([str(install)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ProgramsMissingError(f"{install} failed: {done.stderr.strip()[-300:]}")
        folder = Path(done.stdout.strip())
    missing = [name for name in ("etcd", "kube-apiserver", "kubectl") if not os.access(folder / name, os.X_OK)]
    if missing:
        raise ProgramsMissingError(f"{folder} has no {', '.join(missing)}")
    return folder


def free_ports(count: int) -> list[int]:
    """Return `count` TCP ports of 127.0.0.1 that nobody listened on a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class KubernetesServer:
    """One running API server. `stop()` ends its processes."""

    programs: Path
    folder: Path
    url: str = ""
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    kubeconfig: Path = Path()
    certificate: Path = Path()
    apiserver_flags: Sequence[str] = ()
    """Further flags of kube-apiserver; the last one of a name counts."""
    users: Mapping[str, str] = field(default_factory=dict)
    """Further users by name, with their tokens; members of `system:masters` as the admin is."""
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _apiserver_args: list[str] = field(default_factory=list)
    _etcd_args: list[str] = field(default_factory=list)
    _namespaces: int = 0
    _starter: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(max_workers=1), repr=False)

    # --- life cycle

    def start(self) -> None:
        """Start etcd and kube-apiserver and wait until `/readyz` answers 200."""
        etcd_port, peer_port, api_port = free_ports(3)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.url = f"https://127.0.0.1:{api_port}"
        self.certificate = self.folder / "apiserver.crt"
        key = self.folder / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        tokens = self.folder / "tokens.csv"
        known = {"admin": self.token, **self.users}
        tokens.write_text("".join(f'{token},{name},{name},"system:masters"\n' for name, token in known.items()))
        self._etcd_args = [
            f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=error",
            f"--listen-client-urls=http://127.0.0.1:{etcd_port}", f"--advertise-client-urls=http://127.0.0.1:{etcd_port}",
            f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
        ]  # fmt: skip
        self._spawn("etcd", self._etcd_args)
        self._apiserver_args = [
            f"--etcd-servers=http://127.0.0.1:{etcd_port}", f"--cert-dir={self.folder}",
            "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={api_port}",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/16",
            f"--token-auth-file={tokens}", "--authorization-mode=RBAC", "--allow-privileged=true",
            "--endpoint-reconciler-type=none",
            # Without a controller manager no namespace has the account `default` that this plug-in demands of a pod.
            "--disable-admission-plugins=ServiceAccount", *self.apiserver_flags,
        ]  # fmt: skip
        self._spawn("kube-apiserver", self._apiserver_args)
        self._wait_ready()
        self.kubeconfig = self.write_kubeconfig(self.folder / "kubeconfig")

    def start_controller_manager(self, *flags: str) -> None:
        """Start kube-controller-manager (garbage collection, namespace deletion); does nothing the second time."""
        serving = self._serving("controller-manager")
        self._start_once("kube-controller-manager", "--leader-elect=false", *serving, *flags)

    def start_scheduler(self, *flags: str) -> None:
        """Start kube-scheduler; does nothing the second time."""
        self._start_once("kube-scheduler", "--leader-elect=false", *self._serving("scheduler"), *flags)

    def start_kwok(self, *flags: str) -> None:
        """Start kwok, which makes every node object a fake node; does nothing the second time."""
        self._start_once("kwok", "--manage-all-nodes=true", *flags)

    def restart_apiserver(self) -> None:
        """Kill kube-apiserver and start it again on the same port and data; returns when it is ready."""
        self._end("kube-apiserver", signal.SIGKILL)
        self._spawn("kube-apiserver", self._apiserver_args)
        self._wait_ready()

    def crash(self) -> None:
        """Kill kube-apiserver and etcd; what etcd has written stays in `folder / "etcd"`."""
        self._end("etcd", signal.SIGKILL)
        self._end("kube-apiserver", signal.SIGKILL)

    def recover(self, *, apiserver_first: bool = False) -> None:
        """Start both again after `crash`, on the same ports and what lies in `folder / "etcd"`; waits until ready."""
        first, second = ("kube-apiserver", "etcd") if apiserver_first else ("etcd", "kube-apiserver")
        args = {"etcd": self._etcd_args, "kube-apiserver": self._apiserver_args}
        self._spawn(first, args[first])
        time.sleep(2.0 if apiserver_first else 0.0)
        self._spawn(second, args[second])
        self._wait_ready()

    def stop(self) -> None:
        """End every process; the API server before etcd, so that it does not log its loss."""
        for name in reversed(list(self._processes)):
            # Nothing here is worth a graceful end: kube-apiserver would wait for its open watches.
            self._end(name, signal.SIGKILL)
        self._starter.shutdown()

    # --- use

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl as cluster admin; return its standard output, or raise `AssertionError` with its complaint."""
        command = [str(self.programs / "kubectl"), f"--kubeconfig={self.kubeconfig}", *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(args)} failed: {done.stderr.strip()}")
        return done.stdout if check else done.stdout + done.stderr

    @property
    def etcd_url(self) -> str:
        """Where etcd serves clients."""
        (flag,) = [each for each in self._apiserver_args if each.startswith("--etcd-servers=")]
        return flag.partition("=")[2]

    def new_namespace(self, prefix: str = "test") -> str:
        """Create a namespace with a name not used before in this server and return the name."""
        self._namespaces += 1
        name = f"{prefix}-{self._namespaces}"
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        request = urllib.request.Request(
            f"{self.url}/api/v1/namespaces",
            data=orjson.dumps(body),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10, context=self._tls()):
            return name

    def write_kubeconfig(
        self, path: Path, *, url: str | None = None, namespace: str = "default", token: str | None = None
    ) -> Path:
        """Write a kubeconfig for the admin token, or another user's.

        `url` points it at a proxy (plain http needs no certificate).
        """
        server = url or self.url
        cluster: dict[str, str] = {"server": server}
        if server.startswith("https"):
            cluster["certificate-authority"] = str(self.certificate)
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": token or self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin", "namespace": namespace}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(content))
        return path

    # --- inside

    def _start_once(self, name: str, *flags: str) -> None:
        if name in self._processes:
            return
        if not os.access(self.programs / name, os.X_OK):
            raise ProgramsMissingError(f"{self.programs} has no {name}")
        self._spawn(name, [f"--kubeconfig={self.kubeconfig}", *flags])

    def _serving(self, folder: str) -> list[str]:
        return ["--bind-address=127.0.0.1", f"--secure-port={free_ports(1)[0]}", f"--cert-dir={self.folder / folder}"]

    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))

    def _spawn(self, name: str, args: Sequence[str]) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            # The kernel's signal comes when the starting *thread* ends, so one that lives as long as this object starts
            # them all: a test may restart the API server from a thread of its own.
            self._processes[name] = self._starter.submit(
                subprocess.Popen,
                [str(self.programs / name), *args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_die_with_parent,
            ).result()

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError):
                request = urllib.request.Request(
                    f"{self.url}/readyz", headers={"Authorization": f"Bearer {self.token}"}
                )
                with urllib.request.urlopen(request, timeout=5, context=self._tls()) as answer:
                    if answer.status == 200:
                        return
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}: {self._log_end(name)}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"kube-apiserver is not ready: {self._log_end('kube-apiserver')}")
            time.sleep(0.1)

    def _log_end(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]


@dataclass(frozen=True)
class Kubernetes:
    """What a test gets: the server and a namespace of its own."""

    server: KubernetesServer
    namespace: str

    @property
    def url(self) -> str:
        """Base URL of the API server (https, 127.0.0.1)."""
        return self.server.url

    @property
    def token(self) -> str:
        """Bearer token of a cluster admin."""
        return self.server.token

    @property
    def kubeconfig(self) -> Path:
        """Path of a kubeconfig for the admin."""
        return self.server.kubeconfig

    @property
    def certificate(self) -> Path:
        """Path of the PEM file to verify the server with."""
        return self.server.certificate

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl in this test's namespace."""
        return self.server.kubectl(f"--namespace={self.namespace}", *args, stdin=stdin, check=check)


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator[KubernetesServer]:
    """Start a server in `folder` for the block; raises `ProgramsMissingError` where it cannot."""
    server = KubernetesServer(programs=find_programs(), folder=folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder / "etcd", ignore_errors=True)
