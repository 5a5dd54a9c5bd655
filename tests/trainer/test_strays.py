"""Nothing of a Ray head is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

from shoal_workers.trainer import strays

MULTIPLY = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("up", flush=True)
while True:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    time.sleep(0.01)
"""


def test_what_multiplies_while_it_is_killed_is_killed_as_well() -> None:
    mark = uuid.uuid4().hex
    environment = {**os.environ, strays.VARIABLE: mark}
    process = subprocess.Popen([sys.executable, "-c", MULTIPLY], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    killed = strays.sweep(mark)
    assert strays.marked(mark) == []
    assert process.pid in killed
    assert len(killed) > 1
    assert process.wait(10) != 0
    process.stdout.close()


def test_nothing_to_sweep_takes_no_time() -> None:
    assert strays.sweep(uuid.uuid4().hex) == []
