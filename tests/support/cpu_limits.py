"""Runs a process as on a lesser CPU, by OpenVINO's and oneDNN's own limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from token_engine.openvino_runtime.cpu_isa import LIMITS

from tests.support.paths import BUILD, ROOM_2, ROOT

# This machine's own instruction set, and what a CPU with less has. A limit never adds anything, so
# on a CPU with AVX2 alone all of them are the same.
OWN, AVX512, AVX2, SSE = "", "AVX512_CORE", "AVX2", "SSE42"


def limits(isa: str) -> dict[str, str]:
    """The environment variables that set the limit; none for `OWN`."""
    return dict.fromkeys(LIMITS, isa) if isa else {}


def run_limited(isa: str, program: str, *arguments: object) -> Any:
    """Run Python code under a limit; it prints one JSON document, which is returned."""
    path = os.pathsep.join(map(str, (ROOT, BUILD, ROOT / "client")))
    environment = {**os.environ, "PYTHONPATH": f"{ROOM_2}{os.pathsep}{path}", **limits(isa)}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
