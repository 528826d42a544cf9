"""Honest clients are served beside slow ones, leavers, and a crowd that takes all files: a short soak."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux, where a process's open files can be seen")
def test_a_crowd_keeps_nobody_out():
    command = [sys.executable, str(PROGRAM), "--seconds", "7", "--files", "96"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout)
    assert seen["answers"]["/health"]["200"] > 10 and seen["most files"] > 40, "there was no crowd"
