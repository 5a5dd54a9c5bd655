"""How to reach an API server and prove who asks, and where such credentials come from."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_REREAD_SECONDS = 60.0
"""A projected token lives an hour and its file is renewed at 80 % of that; client-go re-reads it each minute too."""


class CredentialsError(Exception):
    """No usable credentials; the text names the file, entry or variable at fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """One way into one API server. PEM values are text; `token` is a bearer token, else `username`/`password`."""

    server: str
    ca: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    insecure: bool = False
    server_name: str | None = None
    token: str | None = None
    username: str | None = None
    password: str | None = None
    namespace: str = "default"
    proxy_url: str | None = None

    def headers(self) -> dict[str, str]:
        """Return the Authorization header, or nothing for certificates and open servers."""
        if self.token:
            return {"Authorization": f"Bearer {self.token}"}
        if self.username:
            pair = base64.b64encode(f"{self.username}:{self.password or ''}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
        return {}

    def transport(self) -> Credentials:
        """Return these credentials without what travels in headers: equal transports may share connections."""
        return replace(self, token=None, username=None, password=None, namespace="default")

    def ssl_context(self) -> ssl.SSLContext | bool:
        """Return the TLS settings for aiohttp; True (aiohttp's default) for plain http."""
        if self.server.startswith("http://"):
            return True
        context = ssl.create_default_context(cadata=self.ca)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_certificate and self.client_key:
            # The ssl module reads certificates from files only; the folder is private and gone at once.
            with tempfile.TemporaryDirectory() as folder:
                certificate, key = Path(folder, "certificate"), Path(folder, "key")
                certificate.write_text(self.client_certificate)
                key.touch(mode=0o600)
                key.write_text(self.client_key)
                context.load_cert_chain(certificate, key)
        return context


class CredentialsSource(Protocol):
    """Gives the credentials to use now, and newer ones when the server has refused some."""

    async def current(self) -> Credentials:
        """Return the credentials to send the next request with."""
        ...

    async def refresh(self, refused: Credentials) -> Credentials:
        """Return credentials after the server answered 401 to `refused`; the same again when there are no others."""
        ...


class StaticSource:
    """Always the same credentials."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def current(self) -> Credentials:
        """Return the credentials."""
        return self._credentials

    async def refresh(self, refused: Credentials) -> Credentials:
        """Return the same credentials: there are no others."""
        return self._credentials


class ReloadingSource:
    """Reads the credentials again when they are older than `max_age` seconds (None: only after a refusal)."""

    def __init__(
        self,
        read: Callable[[], Credentials],
        *,
        max_age: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._max_age = max_age
        self._clock = clock
        self._credentials: Credentials | None = None
        self._read_at = 0.0

    async def current(self) -> Credentials:
        """Return the credentials, read again when they are old."""
        stale = self._max_age is not None and self._clock() - self._read_at >= self._max_age
        if self._credentials is None or stale:
            return self._reload()
        return self._credentials

    async def refresh(self, refused: Credentials) -> Credentials:
        """Read again, unless somebody did so since `refused` was sent."""
        if self._credentials is not None and self._credentials != refused:
            return self._credentials
        return self._reload()

    def _reload(self) -> Credentials:
        self._credentials = self._read()
        self._read_at = self._clock()
        return self._credentials


def in_cluster_credentials(folder: Path = SERVICE_ACCOUNT, environ: dict[str, str] | None = None) -> Credentials:
    """Read the pod's service account. Raises `CredentialsError` outside a pod."""
    environ = dict(os.environ) if environ is None else environ
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise CredentialsError("not in a cluster: KUBERNETES_SERVICE_HOST is not set")
    try:
        token = (folder / "token").read_text().strip()
        ca = (folder / "ca.crt").read_text()
    except OSError as error:
        raise CredentialsError(f"service account: {error}") from error
    namespace = folder / "namespace"
    return Credentials(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ca=ca,
        token=token,
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
    )


def in_cluster_source() -> ReloadingSource:
    """Return a source for the pod's service account that follows the rotation of its token."""
    return ReloadingSource(in_cluster_credentials, max_age=TOKEN_REREAD_SECONDS)


def credentials_from_kopf(info: Any) -> Credentials:
    """Convert kopf's `ConnectionInfo` (as its login handlers return it)."""
    return Credentials(
        server=info.server,
        ca=_pem(info.ca_data, info.ca_path),
        client_certificate=_pem(info.certificate_data, info.certificate_path),
        client_key=_pem(info.private_key_data, info.private_key_path),
        insecure=bool(info.insecure),
        token=info.token,
        username=info.username,
        password=info.password,
        namespace=info.default_namespace or "default",
        proxy_url=info.proxy_url,
    )


def _pem(data: str | bytes | None, path: Any) -> str | None:
    if data is None:
        return Path(os.fsdecode(path)).read_text() if path is not None else None
    text = data.decode("ascii") if isinstance(data, bytes) else data
    return text if text.startswith("-----BEGIN ") else base64.b64decode(text).decode("ascii")
