"""Engine processes as a pod would run them."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.api.services.models import EngineStatus, GenerateResult


@dataclass
class EngineProcess:
    """A running `python -m shoal_workers.engines`."""

    process: subprocess.Popen[bytes]
    url: str
    last_words: Path
    began: float

    def post(self, path: str, body: dict[str, Any], timeout: float = 60.0) -> dict[str, Any]:
        """One call; raises urllib.error.HTTPError, whose text has the answer's body."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                content: dict[str, Any] = json.loads(answer.read())
                return content
        except urllib.error.HTTPError as error:
            body_text = error.read()
            told = f"{error.reason}: {body_text.decode()}"
            raise urllib.error.HTTPError(error.url, error.code, told, error.headers, io.BytesIO(body_text)) from None

    def generate(self, prompt: list[int], tokens: int, **sampling: Any) -> GenerateResult:
        """Generate with sampling settings."""
        body = {"request_id": "r", "prompt_token_ids": prompt, "sampling": {"max_tokens": tokens, **sampling}}
        return GenerateResult.model_validate(self.post("/generate", body))

    def status(self) -> EngineStatus:
        """The engine's status."""
        with urllib.request.urlopen(self.url + "/status", timeout=10) as answer:
            return EngineStatus.model_validate_json(answer.read())

    def wait_ready(self, seconds: float) -> float:
        """Seconds from start to /readyz 200."""
        while time.monotonic() - self.began < seconds:
            if self.process.poll() is not None:
                raise RuntimeError(f"ended with {self.process.returncode}: {self.words()}")
            try:
                with urllib.request.urlopen(self.url + "/readyz", timeout=5):
                    return time.monotonic() - self.began
            except OSError:
                time.sleep(0.1)
        raise TimeoutError(f"not ready within {seconds} s: {self.words()}")

    def words(self) -> str:
        """What it left in its termination log."""
        return self.last_words.read_text() if self.last_words.exists() else ""


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(config: dict[str, Any], output: Path | None = None, role: str = "engines") -> EngineProcess:
    """Start an engine, or another role; its output goes to a file or nowhere."""
    port = free_port()
    words = Path(tempfile.mkdtemp()) / "termination-log"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("VLLM_", "OMP_"))}
    environment |= {
        "SHOAL_CONFIG": json.dumps({"port": port, **config}),
        "SHOAL_TERMINATION_LOG": str(words),
        "POD_NAME": "engine-0",
        "POD_UID": "uid-0",
    }
    sink: Any = output.open("wb") if output is not None else subprocess.DEVNULL
    command = [sys.executable, "-m", f"shoal_workers.{role}"]
    process = subprocess.Popen(command, env=environment, stdout=sink, stderr=subprocess.STDOUT)
    return EngineProcess(process, f"http://127.0.0.1:{port}", words, time.monotonic())
