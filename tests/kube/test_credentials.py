"""Credentials: every kind of kubeconfig user, the pod's service account, and clear errors."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.kube.credentials import (
    Credentials,
    CredentialsError,
    ReloadingSource,
    StaticSource,
    credentials_from_kopf,
    in_cluster_credentials,
)
from shoal.kube.kubeconfig import credentials_from_kubeconfig, kubeconfig_source


def write(tmp_path: Path, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> Path:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "team"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://example.test:6443/"} | (cluster or {})}],
        "users": [{"name": "u", "user": user or {}}],
    }
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_token_and_inline_authority(tmp_path: Path) -> None:
    ca = base64.b64encode(b"-----BEGIN CERTIFICATE-----").decode()
    path = write(tmp_path, {"certificate-authority-data": ca}, {"token": "t"})
    credentials = credentials_from_kubeconfig(path)
    assert credentials == Credentials(
        server="https://example.test:6443", ca="-----BEGIN CERTIFICATE-----", token="t", namespace="team"
    )
    assert credentials.headers() == {"Authorization": "Bearer t"}


def test_files_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("CA")
    (tmp_path / "token").write_text("from file\n")
    path = write(tmp_path, {"certificate-authority": "ca.crt"}, {"tokenFile": "token"})
    credentials = credentials_from_kubeconfig(path)
    assert (credentials.ca, credentials.token) == ("CA", "from file")


def test_basic_and_no_credentials(tmp_path: Path) -> None:
    basic = credentials_from_kubeconfig(write(tmp_path, user={"username": "me", "password": "pw"}))
    assert basic.headers() == {"Authorization": "Basic " + base64.b64encode(b"me:pw").decode()}
    assert credentials_from_kubeconfig(write(tmp_path)).headers() == {}


def test_a_client_certificate_is_loaded(tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=me", "-days", "1",
         "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    user = {"client-certificate": "cert.pem", "client-key": "key.pem"}
    credentials = credentials_from_kubeconfig(write(tmp_path, {"insecure-skip-tls-verify": True}, user))
    context = credentials.ssl_context()
    assert not isinstance(context, bool)
    assert not context.check_hostname


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda config: config.pop("current-context"), "no current-context"),
        (lambda config: config["contexts"].clear(), "contexts has no entry 'c'"),
        (lambda config: config["clusters"].clear(), "clusters has no entry 'k'"),
        (lambda config: config["users"].clear(), "users has no entry 'u'"),
        (lambda config: config["clusters"][0]["cluster"].pop("server"), "cluster 'k' has no server"),
    ],
)
def test_errors_name_the_entry(tmp_path: Path, change: Any, complaint: str) -> None:
    path = write(tmp_path)
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(CredentialsError, match=complaint):
        credentials_from_kubeconfig(path)


@pytest.mark.parametrize("text", ["{", "- a list", ""])
def test_a_file_that_is_no_kubeconfig_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(CredentialsError, match=str(path)):
        credentials_from_kubeconfig(path)


def test_the_service_account_of_a_pod(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t1\n")
    (tmp_path / "ca.crt").write_text("CA")
    (tmp_path / "namespace").write_text("shoal-system")
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    credentials = in_cluster_credentials(tmp_path, environ)
    assert credentials == Credentials(server="https://[fd00::1]:443", ca="CA", token="t1", namespace="shoal-system")
    with pytest.raises(CredentialsError, match="KUBERNETES_SERVICE_HOST"):
        in_cluster_credentials(tmp_path, {})


async def test_a_rotated_token_is_read_after_a_minute_or_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("CA")
    token = tmp_path / "token"
    token.write_text("t1")
    now = 0.0
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    source = ReloadingSource(lambda: in_cluster_credentials(tmp_path, environ), max_age=60, clock=lambda: now)
    first = await source.current()
    token.write_text("t2")
    now = 59
    assert (await source.current()).token == "t1"
    assert (await source.refresh(first)).token == "t2"
    token.write_text("t3")
    assert (await source.refresh(first)).token == "t2", "somebody has refreshed already"
    now = 120
    assert (await source.current()).token == "t3"


async def test_a_kubeconfig_is_read_again_after_a_refusal(tmp_path: Path) -> None:
    path = write(tmp_path, user={"token": "old"})
    source = kubeconfig_source(path)
    old = await source.current()
    write(tmp_path, user={"token": "new"})
    assert (await source.current()).token == "old"
    assert (await source.refresh(old)).token == "new"
    assert (await StaticSource(old).refresh(old)).token == "old"


def test_what_kopf_found(tmp_path: Path) -> None:
    from shoal.engine.shell import import_kopf

    (tmp_path / "ca").write_text("CA")
    info = import_kopf().ConnectionInfo(
        server="https://x", ca_path=str(tmp_path / "ca"), token="t", default_namespace="n",
        certificate_data=base64.b64encode(b"-----BEGIN X").decode(),
    )  # fmt: skip
    assert credentials_from_kopf(info) == Credentials(
        server="https://x", ca="CA", token="t", namespace="n", client_certificate="-----BEGIN X"
    )
