"""Runs the load test as a person does, and reads the run's folder.

`--max-lag` lets the client be late, so that nothing depends on the machine's speed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from figures.record import RequestRecord

from tests.support.paths import DEMO_CHECKPOINT, ROOT

LENIENT = "ttft:p99<1000s"
FREE = ("--max-lag", "1000", "--slo", LENIENT)
SHORT = ("-t", "2s", "--rate", "20", "--workload", "32/6", "--warmup", "0.5", *FREE)
Ended = tuple[int, str, Path]  # exit code, all that was printed, the run's folder


def command(url: str, folder: Path, *arguments: str) -> list[str]:
    """`locust -f loadtest/locustfile.py --headless ...`."""
    return [
        *(sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py")),
        *("--headless", "-H", url, "--tokenizer", str(DEMO_CHECKPOINT / "tokenizer.json")),
        *("--distinct-prompts", "4", "--output", str(folder), *arguments),
    ]


def run(url: str, folder: Path, *arguments: str) -> Ended:
    """Run it to its end."""
    done = subprocess.run(command(url, folder, *arguments), capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr, folder


def summary(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return document


def records(folder: Path) -> list[RequestRecord]:
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return [RequestRecord.from_json(line) for line in lines]


def recording(folder: Path, lines: int) -> str:
    """The path of a recording for --replay."""
    path = folder / "traffic.jsonl"
    path.write_text(
        "".join(
            json.dumps({"at": number, "prompt": f"line {number}", "max_tokens": 3}) + "\n"
            for number in range(lines)
        ),
        encoding="utf-8",
    )
    return str(path)
