"""Workers on other hosts: clocks that are not the master's, a server that only some can reach."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from figures.record import RequestRecord
from rounds.host_clock import Offset, clock_note
from serving.child_server import ServerProcess

from tests.support.paths import DEMO_CHECKPOINT, ROOT

LOCUST = (sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"))
AHEAD_S = 5.0  # more than the load takes
OTHER_CLOCK = f"""
import time
real = time.time
time.time = lambda: real() + {AHEAD_S}
"""
OTHER_REACH = """
import llama_fp4
class Elsewhere(llama_fp4.AsyncClient):
    def __init__(self, url, **options):
        super().__init__("127.0.0.1:1", **options)
llama_fp4.AsyncClient = Elsewhere
"""


@pytest.mark.parametrize(("ahead", "there", "back"), [(5.0, 0.01, 0.01), (-3.0, 0.0, 0.2)])
def test_clock_offset_error_is_at_most_half_the_round_trip(
    ahead: float, there: float, back: float
) -> None:
    offset = Offset.of(100.0, 100.0 + there + ahead, 100.0 + there + back)
    assert offset.within == pytest.approx((there + back) / 2)
    assert abs(offset.seconds - ahead) <= offset.within + 1e-9


def test_only_a_wrong_clock_is_reported() -> None:
    assert clock_note("1", Offset(0.02, 0.001)) == ""
    assert "1's clock is 2.5 s behind" in clock_note("1", Offset(-2.5, 0.001))


def run(server: ServerProcess, folder: Path, second: str) -> tuple[int, str]:
    """Two workers of one master; the second runs `second` before anything else."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (folder / "sitecustomize.py").write_text(second, encoding="utf-8")
    path = os.pathsep.join([str(folder), str(ROOT / "client")])
    worker = [*LOCUST, "--worker", "--master-port", port]
    master = [
        *(*LOCUST, "--master", "--master-bind-port", port, "--expect-workers", "2", "--headless"),
        *("-H", server.ports.url("grpc"), "-t", "3s", "--rate", "20", "--workload", "32/6"),
        *("--warmup", "0.5", "--distinct-prompts", "4", "--max-lag", "1000", "--slo", "e2e<1000s"),
        *("--tokenizer", str(DEMO_CHECKPOINT / "tokenizer.json"), "--output", str(folder / "out")),
    ]
    workers = [
        subprocess.Popen(
            worker, env={**os.environ, **more}, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        for more in ({}, {"PYTHONPATH": path})
    ]
    try:
        done = subprocess.run(master, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr
    finally:
        for each in workers:
            each.terminate()
            each.wait()


def test_another_hosts_clock_does_not_shift_times(
    replay_server: ServerProcess, tmp_path: Path
) -> None:
    code, text = run(replay_server, tmp_path, OTHER_CLOCK)
    assert code == 0, text
    assert f"clock is {AHEAD_S:g} s ahead of the master's; the schedule allows for it" in text
    lines = (tmp_path / "out" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    records = [RequestRecord.from_json(line) for line in lines]
    assert {record.worker for record in records} == {"0", "1"}
    # Its arrivals were not all due in the past, as they would be by its own clock.
    lags = [record.sent_at - record.scheduled_at for record in records if record.sent_at]
    assert len(lags) == len(records) > 20
    assert max(lags) < AHEAD_S - 3.0
    told = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert told["counts"]["failed"] == told["counts"]["incorrect"] == 0


def test_a_worker_that_cannot_reach_the_server(
    replay_server: ServerProcess, tmp_path: Path
) -> None:
    code, text = run(replay_server, tmp_path, OTHER_REACH)
    assert code == 2, text
    (sentence,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "on the worker's host" in sentence
    assert "a first request to the model 'ensemble' at" in sentence
    assert "Traceback" not in text
    assert not (tmp_path / "out").exists()
