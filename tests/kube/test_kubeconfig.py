"""Kubeconfig files: the official client's own cases, and what kubectl makes of several files."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from kubernetes.client import Configuration
from kubernetes.config.kube_config import load_kube_config
from kubernetes.config.kube_config_test import TestKubeConfigLoader as OfficialCases

from shoal.kube.credentials import Credentials, CredentialsError
from shoal.kube.kubeconfig import credentials_from_kubeconfig, default_kubeconfig, find_source
from tests.embedded.apiserver.conftest import kubectl_program

Json = dict[str, Any]

OFFICIAL: Json = OfficialCases.TEST_KUBE_CONFIG
ASK_A_SERVER = ("expired_oidc", "expired_oidc_with_idp_ca_file", "expired_oidc_nocert")
PLUG_INS = ("exec_cred_user", "exec_cred_user_certificate")
INCOMPLETE = {"non_existing_user": "users has no entry", "contexttestcmdpath": "has no server"}
"""What the official client takes, to fail or to act as nobody with it later, and what is said of it here."""
CONTEXTS = [each["name"] for each in OFFICIAL["contexts"] if each["name"] not in (*ASK_A_SERVER, *PLUG_INS)]


def write(path: Path, config: Json) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path


def text(name: str | None) -> str | None:
    return Path(name).read_text() if name else None


@pytest.mark.parametrize("context", CONTEXTS)
def test_the_official_clients_cases(tmp_path: Path, context: str) -> None:
    file = write(tmp_path / "config", OFFICIAL)
    official = Configuration()
    try:
        load_kube_config(str(file), context, official, persist_config=False)
    except Exception:
        with pytest.raises(CredentialsError, match=str(file)):
            credentials_from_kubeconfig(file, context)
        return
    if context in INCOMPLETE:
        with pytest.raises(CredentialsError, match=INCOMPLETE[context]):
            credentials_from_kubeconfig(file, context)
        return
    ours = credentials_from_kubeconfig(file, context)
    assert ours.server == official.host
    assert ours.headers().get("Authorization") == official.api_key.get("BearerToken")
    assert (ours.ca, ours.client_certificate, ours.client_key) == tuple(
        map(text, (official.ssl_ca_cert, official.cert_file, official.key_file))
    )
    assert (ours.server_name, ours.proxy_url) == (official.tls_server_name, official.proxy or None)
    assert ours.insecure is not official.verify_ssl


def test_the_cases_have_every_kind() -> None:
    assert {"tls-server-name", "proxy_cluster_context", "oidc", "user_pass", "ssl", "simple_token"} <= set(CONTEXTS)


def part(name: str, **more: Json) -> Json:
    """A file with one context, cluster and user of this name; files of theirs lie beside it."""
    return {
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": f"ns-{name}"}}],
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}.test", "certificate-authority": "ca.crt"}}],
        "users": [{"name": name, "user": {"client-certificate": "tls.crt", "client-key": "tls.key"}}],
        **more,
    }


@pytest.fixture
def several(tmp_path: Path) -> list[Path]:
    """Three files in folders of their own, and one that is not there; the second one says what is current."""
    files = []
    for name, more in (("a", {}), ("b", {"current-context": "mixed"}), ("c", {"current-context": "c"})):
        config = part(name, **more)
        if name == "b":
            config["contexts"].append({"name": "mixed", "context": {"cluster": "a", "user": "b"}})
            config["clusters"].append({"name": "a", "cluster": {"server": "https://not-this-one.test"}})
        files.append(write(tmp_path / name / "config", config))
        for file in ("ca.crt", "tls.crt", "tls.key"):
            (tmp_path / name / file).write_text(f"{name}'s {file}\n")
    return [tmp_path / "nowhere", *files]


def of_kubectl(files: list[Path], context: str | None) -> Credentials:
    """What kubectl makes of the files."""
    command = [kubectl_program(), "config", "view", "--flatten", "--minify", "-o", "json"]
    command += [f"--context={context}"] if context else []
    done = subprocess.run(
        command, check=True, capture_output=True, env={"KUBECONFIG": ":".join(map(str, files))}, timeout=60
    )
    config = json.loads(done.stdout)
    (entry,), (cluster,), (user,) = config["contexts"], config["clusters"], config["users"]

    def decoded(body: Json, name: str) -> str:
        return base64.b64decode(body[f"{name}-data"]).decode()

    return Credentials(
        server=cluster["cluster"]["server"],
        ca=decoded(cluster["cluster"], "certificate-authority"),
        client_certificate=decoded(user["user"], "client-certificate"),
        client_key=decoded(user["user"], "client-key"),
        namespace=entry["context"].get("namespace", "default"),
    )


@pytest.mark.parametrize("context", [None, "a", "b", "c", "mixed"])
def test_several_files_are_what_kubectl_makes_of_them(several: list[Path], context: str | None) -> None:
    assert credentials_from_kubeconfig(several, context) == of_kubectl(several, context)


def test_files_of_the_environment(several: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    joined = ":".join(map(str, several))
    assert default_kubeconfig({"KUBECONFIG": f"{joined}:"}) == tuple(several)
    monkeypatch.setenv("KUBECONFIG", joined)
    find_source()
    monkeypatch.setenv("KUBECONFIG", str(several[0]))
    with pytest.raises(CredentialsError, match="nowhere does not exist"):
        find_source()


def plug_in(folder: Path, program: str, **more: Any) -> Path:
    (folder / "plug_in.py").write_text(program)
    version = "client.authentication.k8s.io/v1"
    command = {"apiVersion": version, "command": sys.executable, "args": [str(folder / "plug_in.py")], **more}
    config = part("a") | {"current-context": "a", "users": [{"name": "a", "user": {"exec": command}}]}
    del config["clusters"][0]["cluster"]["certificate-authority"]
    return write(folder / "config", config)


def answering(**status: str) -> str:
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    return f"print({json.dumps(json.dumps(answer))})"


def test_a_plug_in_gives_a_token_or_a_certificate(tmp_path: Path) -> None:
    assert credentials_from_kubeconfig(plug_in(tmp_path, answering(token="t"))).token == "t"
    both = answering(clientCertificateData="CERTIFICATE", clientKeyData="KEY")
    found = credentials_from_kubeconfig(plug_in(tmp_path, both))
    assert (found.client_certificate, found.client_key, found.token) == ("CERTIFICATE", "KEY", None)


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import sys; sys.exit('no session: run `cloud login`')", "no session: run `cloud login`"),
        ("print('hello')", "failed to decode process output"),
        (answering(), "missing token or clientCertificateData"),
    ],
)
def test_a_plug_in_that_fails_is_an_error_with_its_words(tmp_path: Path, program: str, why: str) -> None:
    with pytest.raises(CredentialsError, match=f"the plug-in of user 'a' .*{why}"):
        credentials_from_kubeconfig(plug_in(tmp_path, program))


def test_a_plug_in_that_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="no-such-program"):
        credentials_from_kubeconfig(plug_in(tmp_path, "", command="no-such-program"))


@pytest.mark.parametrize(
    ("section", "key", "more", "words"),
    [
        ("users", "user", {"token": "t", "as": "admin"}, "user 'a': as .impersonation. is not supported"),
        ("clusters", "cluster", {"proxy-url": "socks5://x:1"}, "proxy-url socks5://x:1: expected http:// or https://"),
    ],
)
def test_what_would_be_left_out_is_refused(tmp_path: Path, section: str, key: str, more: Json, words: str) -> None:
    config = part("a") | {"current-context": "a"}
    config[section][0][key] |= more
    with pytest.raises(CredentialsError, match=words):
        credentials_from_kubeconfig(write(tmp_path / "config", config))


def test_no_private_key_is_left_in_a_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "passing"))
    (tmp_path / "passing").mkdir()
    config = part("a") | {"current-context": "a"}
    data = {f"client-{name}-data": base64.b64encode(name.encode()).decode() for name in ("certificate", "key")}
    config["users"][0]["user"] = data
    (tmp_path / "ca.crt").write_text("CA")
    assert credentials_from_kubeconfig(write(tmp_path / "config", config)).client_key == "key"
    assert list((tmp_path / "passing").iterdir()) == []
    assert credentials_from_kubeconfig(tmp_path / "config").client_key == "key", "a second time"


class Issuer(BaseHTTPRequestHandler):
    """An OpenID Connect provider that renews every token."""

    def do_GET(self) -> None:
        self.answer({"token_endpoint": f"http://127.0.0.1:{self.server.server_port}/token"})  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(
            {"id_token": id_token(2**32), "refresh_token": "second", "access_token": "a", "token_type": "Bearer"}
        )

    def answer(self, body: Json) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


def id_token(expires: int) -> str:
    """A token as OpenID Connect has it, without a signature."""
    parts = (json.dumps({"alg": "none"}), json.dumps({"exp": expires, "sub": "me"}), "signature")
    return ".".join(base64.urlsafe_b64encode(each.encode()).decode().rstrip("=") for each in parts)


def test_an_expired_oidc_token_is_renewed_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Issuer)
    Thread(target=server.serve_forever, daemon=True).start()
    provider = {
        "idp-issuer-url": f"http://127.0.0.1:{server.server_port}",
        "client-id": "shoal",
        "client-secret": "s",
        "id-token": id_token(1000),
        "refresh-token": "first",
    }
    config = part("a") | {
        "current-context": "a",
        "users": [{"name": "a", "user": {"auth-provider": {"name": "oidc", "config": provider}}}],
    }
    del config["clusters"][0]["cluster"]["certificate-authority"]
    file = write(tmp_path / "config", config)
    try:
        assert credentials_from_kubeconfig(file).token == id_token(2**32)
    finally:
        server.shutdown()
        server.server_close()
    kept = yaml.safe_load(file.read_text())["users"][0]["user"]["auth-provider"]["config"]
    assert (kept["id-token"], kept["refresh-token"]) == (id_token(2**32), "second")
    assert credentials_from_kubeconfig(file).token == id_token(2**32), "without the provider"
