"""The load test as a person runs it: Locust in a process of its own, against the real server.

A limit of 1,000 s on ttft lets the client be late by 50 s: nothing here depends on the machine.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from arrivals import unit_arrivals
from conftest import DEMO_CHECKPOINT, ROOT
from records import RequestRecord
from server_process import ServerProcess

LENIENT = "ttft:p99<1000s"
SHORT = ("-t", "2s", "--rate", "20", "--workload", "32/6", "--warmup", "0.5", "--slo", LENIENT)


def command(url: str, folder: Path, *arguments: str) -> list[str]:
    """`locust -f loadtest/locustfile.py --headless ...`."""
    return [
        *(sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py")),
        *("--headless", "-H", url, "--tokenizer", str(DEMO_CHECKPOINT / "tokenizer.json")),
        *("--distinct-prompts", "4", "--output", str(folder), *arguments),
    ]


def run(url: str, folder: Path, *arguments: str) -> tuple[int, str]:
    """Its exit code and all it printed."""
    done = subprocess.run(command(url, folder, *arguments), capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def summary(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return document


def records(folder: Path) -> list[RequestRecord]:
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return [RequestRecord.from_json(line) for line in lines]


def test_locust_is_not_imported_here() -> None:
    """It would make this process's standard library gevent's."""
    assert "locust" not in sys.modules
    assert importlib.util.find_spec("locust") is not None
    assert "built-in" in repr(os.fork)


@pytest.mark.parametrize("processes", [(), ("--processes", "2")])
def test_a_run_counts_every_request_once(
    replay_server: ServerProcess, tmp_path: Path, processes: tuple[str, ...]
) -> None:
    stats = ("--json-file", str(tmp_path / "locust"))
    code, text = run(replay_server.ports.url("grpc"), tmp_path, *SHORT, *processes, *stats)
    assert code == 0, text
    told, kept = summary(tmp_path), records(tmp_path)
    counts = told["counts"]
    # The schedule is the seed's, whatever the workers.
    due = itertools.takewhile(lambda unit: unit / 20 < 2, unit_arrivals("poisson", 0))
    assert len(kept) == counts["scheduled"] + counts["warmup"] == len(list(due))
    assert len({record.request_id for record in kept}) == len(kept)
    assert counts["completed"] == counts["good"] == counts["scheduled"] > 0
    assert {record.num_input_tokens for record in kept} == {32}
    assert {record.num_output_tokens for record in kept} == {6}
    assert {record.correct for record in kept} == {True}
    assert told["header"]["texts_compared"] == 4
    assert len(told["workers"]) == (2 if processes else 1)
    # One event a request, and nothing else, in Locust's own statistics.
    (entry,) = json.loads((tmp_path / "locust.json").read_text(encoding="utf-8"))
    assert entry["num_requests"] == len(kept)


def test_faulty_clients_beside_the_normal_ones(
    replay_server: ServerProcess, tmp_path: Path
) -> None:
    faults = "cancel_storm=0.2,slow_reader=0.2,over_long=0.2"
    code, text = run(replay_server.ports.url("grpc"), tmp_path, *SHORT, "--faults", faults)
    assert code == 0, text
    journeys = summary(tmp_path)["journeys"]
    assert set(journeys) == {"normal", "cancel_storm", "slow_reader", "over_long"}
    assert all(each["counts"]["failed"] == 0 for each in journeys.values())
    assert journeys["over_long"]["counts"]["incorrect"] == 0
    refused = [record for record in records(tmp_path) if record.journey == "over_long"]
    assert {record.finish_reason for record in refused} == {"refused"}
    assert "in no figure above" in text


def test_a_chat_and_a_closed_loop(replay_server: ServerProcess, tmp_path: Path) -> None:
    chat = ("-t", "2s", "--workload", "chat", "--think-time", "0.1", "--warmup", "0")
    closed = ("--closed-loop", "-u", "3", "--slo", LENIENT)
    code, text = run(replay_server.ports.url("grpc"), tmp_path, *chat, *closed)
    assert code == 0, text
    kept = records(tmp_path)
    assert {record.turn for record in kept} == {0, 1, 2}
    assert {record.correct for record in kept} == {True}


def test_a_broken_objective_is_the_exit_code(replay_server: ServerProcess, tmp_path: Path) -> None:
    slos = f"{LENIENT},e2e:p50<1us,tpot<1000s"
    code, text = run(replay_server.ports.url("grpc"), tmp_path, *SHORT[:-1], slos)
    assert "BROKEN  e2e:p50<1us" in text
    assert code in (1, 3), text  # 3: e2e's limit lets the client be late by 20 ms only


def test_the_highest_rate_is_searched(replay_server: ServerProcess, tmp_path: Path) -> None:
    slos = f"{LENIENT},e2e:p50<1us"  # which nothing holds
    code, text = run(
        replay_server.ports.url("grpc"), tmp_path, *SHORT[:-1], slos, "--find-max-rate"
    )
    assert code == 1, text
    assert "no rate held the SLOs" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-H", "127.0.0.1:1"), "error: a first request to the model 'ensemble' at 127.0.0.1:1"),
        (("--model", "nobody"), "'nobody'"),
        (("--slo", "ttft<1h"), "error: the SLO 'ttft<1h' is in 'h'"),
        (("--replay", "/dev/null"), "error: the replay file /dev/null has no request"),
        (("--workload", "quick"), "error: the workload is 'quick'"),
        (("--tokenizer", "/nowhere"), "error: there is no tokenizer at /nowhere"),
    ],
)
def test_bad_input_is_one_sentence(
    replay_server: ServerProcess, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    code, text = run(replay_server.ports.url("grpc"), tmp_path, *SHORT, *arguments)
    assert code == 2, text
    assert sentence in text
    assert "Traceback" not in text
    assert not (tmp_path / "summary.json").exists()


def test_what_was_measured_outlives_a_dead_worker(
    replay_server: ServerProcess, tmp_path: Path
) -> None:
    arguments = ("-t", "10s", *SHORT[2:], "--processes", "2")
    with subprocess.Popen(
        command(replay_server.ports.url("grpc"), tmp_path, *arguments),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        before = [process.stdout.readline()]  # the first line of progress
        children = psutil.Process(process.pid).children()
        children[0].send_signal(signal.SIGKILL)
        text = "".join([*before, *process.stdout])
        code = process.wait()
    assert code == 3, text
    assert text.count("died at") == 1
    assert "its part of the load is missing" in text
    assert len(records(tmp_path)) > 20
    assert summary(tmp_path)["counts"]["completed"] > 20


def test_an_interrupted_run_keeps_what_it_has(replay_server: ServerProcess, tmp_path: Path) -> None:
    arguments = ("-t", "600s", *SHORT[2:])
    with subprocess.Popen(
        command(replay_server.ports.url("grpc"), tmp_path, *arguments),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        text = process.stdout.read()
        process.wait()
    assert "the load was ended at" in text
    told = summary(tmp_path)
    assert 1 < told["header"]["duration_s"] < 300
    assert told["counts"]["completed"] > 0
    assert told["counts"]["failed"] == 0
