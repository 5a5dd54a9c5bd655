"""Credentials from a kubeconfig file, the official client's only for users that need a plug-in."""

from __future__ import annotations

import asyncio
import base64
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from shoal.kube.credentials import (
    Credentials,
    CredentialsError,
    CredentialsSource,
    ReloadingSource,
    in_cluster_source,
)

Json = dict[str, Any]
_PLUG_INS = ("exec", "auth-provider")


def default_kubeconfig(environ: dict[str, str] | None = None) -> Path:
    """Return the file that kubectl would read (the first one of KUBECONFIG, else ~/.kube/config)."""
    environ = dict(os.environ) if environ is None else environ
    named = [part for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return Path(named[0]) if named else Path.home() / ".kube" / "config"


def credentials_from_kubeconfig(path: Path, context: str | None = None) -> Credentials:
    """Read one context (default: the current one). Raises `CredentialsError` naming the entry at fault.

    A user with an exec plug-in or an auth provider is handed to the official client, which must be installed then.
    """
    config = _load(path)
    chosen = context or config.get("current-context")
    if not chosen:
        raise CredentialsError(f"{path}: no current-context")
    entry = _entry(config, path, "contexts", "context", str(chosen))
    cluster = _entry(config, path, "clusters", "cluster", str(entry.get("cluster")))
    user = _entry(config, path, "users", "user", str(entry["user"])) if entry.get("user") else {}
    if any(user.get(name) for name in _PLUG_INS):
        return _from_official_client(path, str(chosen), entry)
    if not cluster.get("server"):
        raise CredentialsError(f"{path}: cluster {entry.get('cluster')!r} has no server")
    token = user.get("token")
    if not token and user.get("tokenFile"):
        token = _file(path, str(user["tokenFile"])).strip()
    return Credentials(
        server=str(cluster["server"]).rstrip("/"),
        ca=_inline_or_file(path, cluster, "certificate-authority"),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        server_name=cluster.get("tls-server-name"),
        client_certificate=_inline_or_file(path, user, "client-certificate"),
        client_key=_inline_or_file(path, user, "client-key"),
        token=str(token) if token else None,
        username=user.get("username"),
        password=user.get("password"),
        namespace=str(entry.get("namespace") or "default"),
        proxy_url=cluster.get("proxy-url"),
    )


class ThreadedSource(ReloadingSource):
    """A source whose reading may run a program (an exec plug-in), so it happens in a thread, once at a time."""

    def __init__(self, read: Callable[[], Credentials], *, max_age: float | None = None) -> None:
        super().__init__(read, max_age=max_age)
        self._lock = asyncio.Lock()

    async def current(self) -> Credentials:
        """Return the credentials, read when there are none yet."""
        if self._credentials is None:
            async with self._lock:
                if self._credentials is None:
                    return await asyncio.to_thread(self._reload)
        return self._credentials

    async def refresh(self, refused: Credentials) -> Credentials:
        """Read again in a thread, unless somebody did so since `refused` was sent."""
        async with self._lock:
            if self._credentials is not None and self._credentials != refused:
                return self._credentials
            return await asyncio.to_thread(self._reload)


def kubeconfig_source(path: Path, context: str | None = None) -> ThreadedSource:
    """Return a source that reads the file again after a 401."""
    return ThreadedSource(lambda: credentials_from_kubeconfig(path, context))


def find_source(kubeconfig: Path | None = None, context: str | None = None) -> CredentialsSource:
    """Return the source a program should use.

    The named file, else $KUBECONFIG, else the pod's service account, else ~/.kube/config.

    Raises `CredentialsError` when there is none of them.
    """
    if kubeconfig is not None:
        return kubeconfig_source(kubeconfig, context)
    if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
        return in_cluster_source()
    path = default_kubeconfig()
    if not path.exists():
        raise CredentialsError(f"no credentials: {path} does not exist and this is not a pod")
    return kubeconfig_source(path, context)


def _load(path: Path) -> Json:
    try:
        config = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CredentialsError(f"kubeconfig {path}: {error}") from error
    if not isinstance(config, dict):
        raise CredentialsError(f"kubeconfig {path}: not a mapping")
    return config


def _entry(config: Json, path: Path, section: str, key: str, name: str) -> Json:
    for one in config.get(section) or ():
        if one.get("name") == name:
            return one.get(key) or {}
    raise CredentialsError(f"kubeconfig {path}: {section} has no entry {name!r}")


def _inline_or_file(path: Path, entry: Json, name: str) -> str | None:
    if entry.get(f"{name}-data"):
        return base64.b64decode(entry[f"{name}-data"]).decode()
    return _file(path, str(entry[name])) if entry.get(name) else None


def _file(path: Path, name: str) -> str:
    try:
        return (path.parent / name).read_text()
    except OSError as error:
        raise CredentialsError(f"kubeconfig {path}: {error}") from error


def _from_official_client(path: Path, context: str, entry: Json) -> Credentials:
    try:
        # Imported here alone: it is 60 MB of memory and a second of start-up that few users need.
        official: Any = importlib.import_module("kubernetes")
        config: Any = importlib.import_module("kubernetes.config")
    except ImportError as error:
        raise CredentialsError(
            f"kubeconfig {path}: user {entry.get('user')!r} needs a plug-in; install the package `kubernetes`"
        ) from error
    configuration: Any = official.client.Configuration()
    try:
        config.load_kube_config(str(path), context, client_configuration=configuration)
    except Exception as error:
        # The official client raises many kinds, from plug-in failures to bad files; all mean the same here.
        raise CredentialsError(f"kubeconfig {path}: {error}") from error
    scheme, _, token = str(configuration.auth_settings().get("BearerToken", {}).get("value") or "").partition(" ")
    return Credentials(
        server=str(configuration.host).rstrip("/"),
        ca=_read(configuration.ssl_ca_cert),
        insecure=not configuration.verify_ssl,
        client_certificate=_read(configuration.cert_file),
        client_key=_read(configuration.key_file),
        token=(token or scheme) or None,
        namespace=str(entry.get("namespace") or "default"),
    )


def _read(name: str | None) -> str | None:
    return Path(name).read_text() if name else None
