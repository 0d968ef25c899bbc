"""Locust's web UI with the LLM tab, with a master and two workers, against the real server."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from serving.child_server import ServerProcess, free_ports
from traffic.arrivals import unit_arrivals

from tests.support.paths import LOADTEST
from tests.support.processes import eventually

LOCUSTFILE = LOADTEST / "locustfile.py"


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=500) as answer:
        return str(answer.read().decode())


def rows(port: int) -> dict[str, dict[str, str]]:
    """The tab's rows by name; empty until the UI is there."""
    try:
        document: dict[str, Any] = json.loads(get(port, "/stats/requests"))
    except OSError:
        return {}
    if "extended_stats" not in document:
        return {}
    (table,) = document["extended_stats"]
    assert table["key"] == "llm-metrics"
    return {row["metric"]: row for row in table["data"]}


def test_the_tab_shows_the_running_test(
    replay_server: ServerProcess, replay_repository: Path, tmp_path: Path
) -> None:
    ports = free_ports()
    port, master, both = ports.http, str(ports.grpc), {"0", "1"}
    command = [
        sys.executable,
        *("-m", "locust", "-f", str(LOCUSTFILE), "--autostart", "--processes", "2"),
        *("--web-port", str(port), "--master-bind-port", master, "--master-port", master),
        *("-H", replay_server.ports.url("grpc"), "--rate", "20", "-t", "600s", "--warmup", "1"),
        *("--metrics-url", replay_server.ports.url("metrics"), "--workload", "32/8"),
        *("--tokenizer", str(replay_repository / "preprocessing/1/engine/tokenizer.json")),
        *("--output", str(tmp_path / "run")),
    ]
    with (tmp_path / "log").open("wb") as log:
        locust = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:

        def measured() -> bool:
            assert locust.poll() is None, (tmp_path / "log").read_text()
            there = {"ttft spent in prefill", "server: preprocessing compute"} <= set(rows(port))
            return there and set(json.loads(get(port, "/llama/summary.json"))["workers"]) == both

        eventually(measured, "times of both workers in the tab")
        table = rows(port)
        assert int(table["itl"]["value"].split()[0].replace(",", "")) > 0
        assert float(table["ttft"]["p99"].replace(",", "")) > 0
        assert float(table["server: preprocessing compute"]["mean"].replace(",", "")) > 0
        assert '"key": "llm-metrics"' in get(port, "/").replace('"key":"', '"key": "')
        summary = json.loads(get(port, "/llama/summary.json"))
        assert set(summary["workers"]) == both, "of both workers"
        page = get(port, "/llama/report")
        assert "<svg" in page
        assert 'http-equiv="refresh"' in page
    finally:
        locust.send_signal(signal.SIGTERM)
        locust.wait(timeout=500)
    assert (tmp_path / "run" / "records.jsonl").stat().st_size > 0


def test_the_ui_counts_the_run_time_from_the_start_of_the_load(
    replay_server: ServerProcess, replay_repository: Path, tmp_path: Path
) -> None:
    """Its own timer runs while the run is prepared, and would leave that much less of the load."""
    ports = free_ports()
    command = [
        *(sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--web-port", str(ports.http)),
        *("-H", replay_server.ports.url("grpc"), "--rate", "20", "--workload", "32/4"),
        *("--metrics-url", replay_server.ports.url("metrics"), "--warmup", "0.5"),
        *("--tokenizer", str(replay_repository / "preprocessing/1/engine/tokenizer.json")),
        *("--max-lag", "1000", "--slo", "ttft<1000s", "--output", str(tmp_path)),
    ]
    seen: set[str] = set()

    def ended() -> bool:
        phase = rows(ports.http)["phase"]["value"]
        seen.add(phase.partition(":")[0])
        return phase == "ended"

    with (tmp_path / "log").open("wb") as log:
        locust = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        eventually(lambda: bool(rows(ports.http)), "the web UI")
        assert rows(ports.http)["phase"]["value"] == "not started"
        form = b"user_count=1&spawn_rate=1&run_time=3s"
        with urllib.request.urlopen(f"http://127.0.0.1:{ports.http}/swarm", form) as answer:
            assert json.load(answer)["success"]
        eventually(ended, "the end of the load")
    finally:
        locust.send_signal(signal.SIGTERM)
        locust.wait(timeout=500)
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["header"]["duration_s"] == 2.5
    assert not [each for each in summary["incidents"] if "ended" in each]
    due = itertools.takewhile(lambda unit: unit / 20 < 3, unit_arrivals("poisson", 0))
    assert summary["counts"]["scheduled"] + summary["counts"]["warmup"] == len(list(due))
    assert seen & {"load", "warm-up"}
