"""kubectl against one of two servers, and what of its output must be the same on both."""

import json
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.embedded.conformance.commands import Command

LONGEST = 60
"""Seconds; a command that takes longer hangs."""
_MADE_UP = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "UID"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z?"), "TIME"),
    (re.compile(r'(resourceVersion: |Resource Version: +)"?\d+"?'), r"\1VERSION"),
    (re.compile(r"\b(127|10)\.96\.\d+\.\d+\b"), "ADDRESS"),
    (re.compile(r"(?<![\w.-])\d+(s|m|m\d+s)(?![\w.-])"), "AGE"),
    (re.compile(r"/tmp/(LIVE|MERGED)-\d+/"), r"/tmp/\1/"),
    (re.compile(r"/tmp/kubectl-edit-\S+"), "FILE"),
    (re.compile(r"https?://127\.0\.0\.1:\d+(/secret)?"), "SERVER"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ \+0000"), "TIME"),
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r"(?m)^diff -u .*$"), "diff"),
    (re.compile(r"(?m)[ \t]+$"), ""),
)


@dataclass(frozen=True)
class Kubectl:
    """kubectl with one server's kubeconfig, in a namespace."""

    program: str
    kubeconfig: Path
    namespace: str

    def run(self, command: Command) -> tuple[int, str]:
        """Exit status and output, less what every server makes up for itself; -1 for one that was ended."""
        words = [self.filled(word) for word in split(command.title)]
        line = [self.program, f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", *words]
        environment = {**os.environ, "KUBECTL_EXTERNAL_DIFF": "diff -u", "TZ": "UTC", **command.env}
        process = subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        try:
            output, _ = process.communicate(self.filled(command.stdin), timeout=command.ends or LONGEST)
            code = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            output, code = process.communicate()[0], -1
            if not command.ends:
                raise
        return code, self._same(output, command)

    def filled(self, text: str) -> str:
        """The text with this side's namespace."""
        return text.replace("NAMESPACE", self.namespace)

    def _same(self, output: str, command: Command) -> str:
        text = output.replace(self.namespace, "NAMESPACE")
        for pattern, word in _MADE_UP:
            text = pattern.sub(word, text)
        lines = [line for line in text.splitlines() if line]
        return "\n".join(sorted(lines) if command.rows else lines)


def split(line: str) -> list[str]:
    """The words of a command line; JSON in it may stand in quotes."""
    if "{" not in line and "[" not in line:
        return shlex.split(line)
    head, _, patch = line.partition(" -p ")
    return [*head.split(), *(["-p", json.dumps(json.loads(patch.strip("'")))] if patch else [])]
