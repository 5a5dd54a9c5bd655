"""Sign-in by kubeconfig files, which the official client reads: merging, plug-ins (`exec`), OIDC, certificates.

Its `kube_config` module is imported when a kubeconfig is used, never in a pod: 20 MB of memory. What differs here is
where it differs from kubectl: the first file that names a context wins, every path is relative to its own file, and a
plug-in that fails is an error, not a request without credentials.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

_OFFICIAL = "kubernetes.config.kube_config"
_FILES = ("client-certificate", "client-key", "tokenFile")
_IMPERSONATION = ("as", "as-uid", "as-groups", "as-user-extra")


def default_kubeconfig(environ: dict[str, str] | None = None) -> tuple[Path, ...]:
    """Return the files that kubectl would read: those of KUBECONFIG, else ~/.kube/config."""
    environ = dict(os.environ) if environ is None else environ
    named = [part for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return tuple(map(Path, named)) or (Path.home() / ".kube" / "config",)


def credentials_from_kubeconfig(paths: Path | Sequence[Path], context: str | None = None) -> Credentials:
    """Read one context (default: the current one) of a file, or of several as kubectl merges them.

    Files that are not there are passed over while one of them is. Raises `CredentialsError` naming the entry at fault.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    where = "kubeconfig " + os.pathsep.join(map(str, files))
    merged, current = _merge(files, where)
    chosen = context or current
    if not chosen:
        raise CredentialsError(f"{where}: no current-context")
    entry = _entry(merged, where, "contexts", "context", chosen)
    cluster = _entry(merged, where, "clusters", "cluster", str(entry.get("cluster")))
    user = _entry(merged, where, "users", "user", str(entry["user"])) if entry.get("user") else {}
    if not cluster.get("server"):
        raise CredentialsError(f"{where}: cluster {entry.get('cluster')!r} has no server")
    _check(where, entry, cluster, user)
    with tempfile.TemporaryDirectory() as folder, _complaints() as said:
        configuration = _sign_in(merged, chosen, where, folder)
        if user.get("exec") and not (configuration.api_key or configuration.cert_file):
            why = "; ".join(said) or "it printed neither a token nor a certificate"
            raise CredentialsError(f"{where}: the plug-in of user {entry['user']!r} ({user['exec']['command']}): {why}")
        scheme, _, token = str(configuration.api_key.get("BearerToken") or "").partition(" ")
        basic = scheme == "Basic"
        return Credentials(
            server=str(configuration.host).rstrip("/"),
            ca=_read(configuration.ssl_ca_cert),
            insecure=not configuration.verify_ssl,
            server_name=getattr(configuration, "tls_server_name", None) or None,
            client_certificate=_read(configuration.cert_file),
            client_key=_read(configuration.key_file),
            token=None if basic else token.strip() or None,
            username=user.get("username") if basic else None,
            password=user.get("password") if basic else None,
            namespace=str(entry.get("namespace") or "default"),
            proxy_url=cluster.get("proxy-url") or None,
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


def kubeconfig_source(paths: Path | Sequence[Path], context: str | None = None) -> ThreadedSource:
    """Return a source that reads the file, or the files, again after a 401."""
    return ThreadedSource(lambda: credentials_from_kubeconfig(paths, context))


def find_source(kubeconfig: Path | None = None, context: str | None = None) -> CredentialsSource:
    """Return the source a program should use.

    The named file, else $KUBECONFIG, else the pod's service account, else ~/.kube/config.

    Raises `CredentialsError` when there is none of them.
    """
    if kubeconfig is not None:
        return kubeconfig_source(kubeconfig, context)
    if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
        return in_cluster_source()
    paths = default_kubeconfig()
    if not any(path.exists() for path in paths):
        raise CredentialsError(f"no credentials: {paths[0]} does not exist and this is not a pod")
    return kubeconfig_source(paths, context)


def _merge(files: Sequence[Path], where: str) -> tuple[Any, str]:
    """The official client's merger with every file, and the current context of the first file that has one."""
    official: Any = importlib.import_module(_OFFICIAL)
    merger, current = official.KubeConfigMerger(""), ""
    for path in [path for path in files if path.exists()] or files[:1]:
        config = _load(path)
        current = current or str(config.get("current-context") or "")
        merger.paths.append(str(path))
        try:
            merger.load_config(str(path))
        except Exception as error:
            # Entries without a name, lists that are none: it raises many kinds, and all mean the same here.
            raise CredentialsError(f"kubeconfig {path}: {type(error).__name__}: {error}") from error
    merger.config_saved = copy.deepcopy(merger.config_files)
    return merger, current


def _load(path: Path) -> Json:
    try:
        config = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CredentialsError(f"kubeconfig {path}: {error}") from error
    if not isinstance(config, dict):
        raise CredentialsError(f"kubeconfig {path}: not a mapping")
    return config


def _entry(merger: Any, where: str, section: str, key: str, name: str) -> Json:
    for node in merger.config.value.get(section) or ():
        if node.value.get("name") == name:
            body = node.value.get(key) or {}
            if section == "users" and any(body.get(each) for each in _FILES) and not body.get("auth-provider"):
                # The official client looks for them beside the cluster's file. The file itself stays as it is.
                node.value = {**node.value, key: _absolute(body, Path(node.path).parent)}
            return dict(body)
    raise CredentialsError(f"{where}: {section} has no entry {name!r}")


def _absolute(user: Json, folder: Path) -> Json:
    return user | {name: str((folder / user[name]).absolute()) for name in _FILES if user.get(name)}


def _check(where: str, entry: Json, cluster: Json, user: Json) -> None:
    """Refuse what would else be left out in silence."""
    for name in _IMPERSONATION:
        if user.get(name):
            raise CredentialsError(f"{where}: user {entry['user']!r}: {name} (impersonation) is not supported")
    proxy = str(cluster.get("proxy-url") or "http:")
    if proxy.partition(":")[0] not in ("http", "https"):
        raise CredentialsError(
            f"{where}: cluster {entry['cluster']!r}: proxy-url {proxy}: expected http:// or https://"
        )


def _sign_in(merger: Any, context: str, where: str, folder: str) -> Any:
    official: Any = importlib.import_module(_OFFICIAL)
    configuration = official.Configuration()
    try:
        loader = official.KubeConfigLoader(
            merger.config,
            active_context=context,
            config_base_path=None,
            config_persister=merger.save_changes,
            temp_file_path=folder,
        )
        loader.load_and_set(configuration)
    except Exception as error:
        # From OIDC's servers to base64 that is none: it raises many kinds, and all mean the same here.
        raise CredentialsError(f"{where}: {error}") from error
    return configuration


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What the official client logs while the block runs: it tells of a plug-in that failed in no other way."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR:
                said.append(record.getMessage())

    listener = Listener()
    logging.getLogger().addHandler(listener)
    try:
        yield said
    finally:
        logging.getLogger().removeHandler(listener)


def _read(name: str | None) -> str | None:
    return Path(name).read_text() if name else None
