"""The load test as a person runs it: Locust in a process of its own, against the real server.

`--max-lag` lets the client be late: nothing here depends on the machine. The loads of all tests go
on at once, as most of their time they wait.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line.interrupts import master_port_problem
from compare import differences, load
from figures.record import WARMUP, RequestRecord
from figures.slo import EXIT_BROKEN, EXIT_INVALID
from output.write_run import RunOutput
from report import write_report
from serving.child_server import ServerProcess, free_ports
from traffic.arrivals import unit_arrivals

from tests.support.load_runs import FREE, LENIENT, SHORT, Ended, command, records, run, summary
from tests.support.paths import ROOT
from tests.support.processes import eventually

AT_ONCE = 8
WARMUP_S = float(SHORT[SHORT.index("--warmup") + 1])
RECORDED = 8  # lines, four a second
ENDLESS = ("-t", "600s", *SHORT[2:])
CLOSED = ("-t", "2s", "--warmup", "0", "--workload", "32/6", "--closed-loop", *FREE)
NOBODY_HOLDS = ("--slo", f"{LENIENT},e2e:p50<1us")
# What is asked for, and the sentence that it gets.
BAD = {
    "unreachable": (
        ("-H", "127.0.0.1:1"),
        "error: a first request to the model 'ensemble' at 127.0.0.1:1",
    ),
    "unknown model": (("--model", "nobody"), "'nobody'"),
    "unknown unit": (("--slo", "ttft<1h"), "error: the SLO 'ttft<1h' must be in one of "),
    "no unit": (("--slo", "ttft<2000"), "error: the SLO 'ttft<2000' must have a unit"),
    "empty replay": (
        ("--replay", "/dev/null"),
        "error: the replay file /dev/null must have one JSON object a line",
    ),
    "half a replay": (("--replay", "HALF"), "error: line 2 of the replay file "),
    "unknown workload": (("--workload", "quick"), "error: the workload must be one of "),
    "no tokenizer": (("--tokenizer", "/nowhere"), "error: there is no tokenizer at /nowhere"),
    "endless rate": (("--rate", "inf"), "error: --rate must be a number above 0, not inf"),
    "no time": (("-t", "0s"), "error: --run-time must be a number above 0, not 0.0"),
    "endless prompt": (
        ("--workload", "99999999999/1"),
        "error: the workload must have lengths of at least 1, and a prompt of at most",
    ),
    "searched users": (
        ("--closed-loop", "--find-max-rate", "--rate", "4"),
        "error: --find-max-rate searches the arrival rate of an open loop, and --closed-loop has",
    ),
    "searched recording": (
        ("--find-max-rate", "--arrivals", "trace", "--replay", "TRAFFIC"),
        "error: --find-max-rate changes the arrival rate, and --replay keeps the recorded times",
    ),
    "unknown sampling": (
        ("--sampling", '{"temperature": 0.5, "nope": 1}'),
        "not 'nope'",
    ),
    "no option": (
        ("--sampling", '{"max_tokens": 3}'),
        "error: --sampling has 'max_tokens', which the workload",
    ),
    "no folder": (("--output", "/dev/null/x"), "error: --output /dev/null/x cannot be written"),
}
LOADS = {
    "search": (*SHORT, "--slo", "e2e:p50<1us", "--find-max-rate"),  # the longest
    "recording": ("-u", "5", *FREE, "--replay", "TRAFFIC"),
    "part of a recording": ("-t", "1s", "--warmup", "0.3", *FREE, "--replay", "TRAFFIC"),
    "one process": (*SHORT, "--json-file", "FOLDER/locust"),
    "two processes": (*SHORT, "--processes", "2", "--json-file", "FOLDER/locust"),
    "faults": (*SHORT, "--faults", "cancel_storm=0.2,slow_reader=0.2,over_long=0.2"),
    "broken": (*SHORT, *NOBODY_HOLDS),
    "six users": (*CLOSED, "-u", "6"),
    "one user": (*CLOSED, "--processes", "2", "--rate", "8"),
    "a ramp": (*CLOSED, "-u", "300", "-r", "0.5"),
    **{name: (*SHORT, *arguments) for name, (arguments, _) in BAD.items()},
}


def pause_a_worker(master: psutil.Process) -> None:
    """As on a machine where others are served first: twice of what Locust would bear."""
    (worker, *_) = master.children()
    worker.suspend()
    time.sleep(6)
    worker.resume()


def kill_the_sender(load_test: psutil.Process) -> None:
    (sender,) = (each for each in load_test.children() if "sender.py" in each.cmdline()[-1])
    sender.kill()


def so_far(folder: Path, name: str) -> list[dict[str, Any]]:
    """The lines that the running load test has written whole."""
    path = folder / name
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def was_measured(folder: Path) -> bool:
    """A request that is in the figures was answered."""
    return any(
        each["phase"] != WARMUP and not each["error_class"]
        for each in so_far(folder, "records.jsonl")
    )


def has_split(folder: Path) -> bool:
    """And the server's sums tell of one between two samples after the warm-up."""
    sequences = [
        each["metrics"]["sequences"]
        for each in so_far(folder, "server.jsonl")
        if each["at_s"] >= WARMUP_S
    ]
    return was_measured(folder) and len(set(sequences)) > 1


def has_a_third_turn(folder: Path) -> bool:
    return any(each["turn"] == 2 for each in so_far(folder, "records.jsonl"))


def disturb(
    disturbance: Callable[[psutil.Process], None],
    when: Callable[[Path], bool],
    url: str,
    folder: Path,
    *arguments: str,
) -> Ended:
    """To its end, disturbed after the first line of progress as soon as `when(folder)`."""
    with subprocess.Popen(
        command(url, folder, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "in flight" in line:
                eventually(lambda: when(folder), f"{when.__name__}: {''.join(lines)}")
                disturbance(psutil.Process(process.pid))
                break
        text = "".join([*lines, *process.stdout])
        return process.wait(), text, folder


@pytest.fixture(scope="module")
def loads(
    replay_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Ended]]]:
    url = replay_server.ports.url("grpc")
    folder = tmp_path_factory.mktemp("loads")
    half = folder / "half.jsonl"
    traffic = folder / "traffic.jsonl"
    traffic.write_text(
        "".join(
            json.dumps({"at": 5 + place / 4, "prompt": "Hi", "max_tokens": 2}) + "\n"
            for place in range(RECORDED)
        ),
        encoding="utf-8",
    )
    half.write_text('{"at": 0, "prompt": "Hello"}\n{"at": 0.5, "pro', encoding="utf-8")

    def place(name: str) -> Path:
        return folder / name.replace(" ", "-")

    disturbances = {
        "interrupted": (lambda it: it.send_signal(signal.SIGINT), was_measured, ENDLESS),
        "chat": (
            lambda it: it.send_signal(signal.SIGINT),
            has_a_third_turn,
            (
                *("-t", "600s", "--workload", "chat", "--think-time", "0.1", "--warmup", "0"),
                *("--closed-loop", "-u", "3", *FREE),
            ),
        ),
        "dead worker": (
            lambda it: it.children()[0].send_signal(signal.SIGKILL),
            was_measured,
            ("-t", "10s", *SHORT[2:], "--processes", "2"),
        ),
        "dead sender": (kill_the_sender, was_measured, ENDLESS),
        "paused worker": (
            pause_a_worker,
            was_measured,
            ("-t", "12s", *SHORT[2:], "--processes", "2"),
        ),
        "killed": (
            lambda it: it.kill(),
            has_split,
            (*ENDLESS, "--metrics-url", replay_server.ports.url("metrics")),
        ),
    }
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {
            name: pool.submit(disturb, how, when, url, place(name), *arguments)
            for name, (how, when, arguments) in disturbances.items()
        }
        for name, arguments in LOADS.items():
            filled = [
                each.replace("FOLDER", str(place(name)))
                .replace("HALF", str(half))
                .replace("TRAFFIC", str(traffic))
                for each in arguments
            ]
            futures[name] = pool.submit(run, url, place(name), *filled)
        yield futures


def test_tests_do_not_import_locust() -> None:
    """It would make this process's standard library gevent's."""
    assert "locust" not in sys.modules
    assert importlib.util.find_spec("locust") is not None
    assert "built-in" in repr(os.fork)


def test_no_arrival_is_lost_at_a_rate_far_too_high(
    replay_server: ServerProcess, tmp_path: Path
) -> None:
    fast = ("-t", "1s", "--rate", "4000", "-s", "1", "--max-in-flight", "100")
    code, text, folder = run(replay_server.ports.url("grpc"), tmp_path, *SHORT, *fast)
    told = summary(folder)
    # Its processor may or may not have been the bottleneck; nothing else makes the run invalid.
    assert code == (EXIT_BROKEN if told["validity"]["valid"] else EXIT_INVALID), text
    assert all("of its core" in reason for reason in told["validity"]["reasons"])
    due = itertools.takewhile(lambda unit: unit / 4000 < 1, unit_arrivals("poisson", 0))
    kept = records(folder)
    assert len({record.request_id for record in kept}) == len(kept) == len(list(due))
    assert told["failures"]["normal/ClientLimit"]["count"] > 0


@pytest.mark.parametrize("name", ["one process", "two processes"])
def test_a_run_counts_every_request_once(loads: dict[str, Future[Ended]], name: str) -> None:
    code, text, folder = loads[name].result()
    assert code == 0, text
    told, kept = summary(folder), records(folder)
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
    served = told["header"]["served"]
    assert served["server"].startswith("triton 2.")
    assert served["server"] in text
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["ttft_p99_s"] == str(told["metrics"]["ttft"]["p99"])
    assert row["server"] == served["server"]
    assert len(told["workers"]) == (2 if name == "two processes" else 1)
    assert "is not used" not in text, "nobody gave --users"
    # One event a request, and nothing else, in Locust's own statistics.
    (entry,) = json.loads((folder / "locust.json").read_text(encoding="utf-8"))
    assert entry["num_requests"] == len(kept)


def test_faulty_clients_are_counted_apart(loads: dict[str, Future[Ended]]) -> None:
    code, text, folder = loads["faults"].result()
    assert code == 0, text
    journeys = summary(folder)["journeys"]
    assert set(journeys) == {"normal", "cancel_storm", "slow_reader", "over_long"}
    assert all(each["counts"]["failed"] == 0 for each in journeys.values())
    assert journeys["over_long"]["counts"]["incorrect"] == 0
    refused = [record for record in records(folder) if record.journey == "over_long"]
    assert {record.finish_reason for record in refused} == {"refused"}
    assert "in no figure above" in text


def test_chats_are_answered_correctly(loads: dict[str, Future[Ended]]) -> None:
    code, text, folder = loads["chat"].result()
    assert code == 0, text
    whole = [record for record in records(folder) if not record.cancelled]
    assert {record.turn for record in whole} == {0, 1, 2}
    assert {record.correct for record in whole} == {True}


def most_at_once(kept: list[RequestRecord]) -> int:
    """Requests in flight, from their own times; who asks again does so after the answer."""
    ends = [(each.ended_at, -1) for each in kept if each.ended_at is not None]
    steps = sorted([*((each.scheduled_at, 1) for each in kept), *ends])
    return max(itertools.accumulate(step for _, step in steps))


@pytest.mark.parametrize(("name", "users"), [("six users", 6), ("one user", 1)])
def test_a_closed_loop_starts_with_all_users(
    loads: dict[str, Future[Ended]], name: str, users: int
) -> None:
    """Locust starts one a second, and as many as there are processes where none are given."""
    code, text, folder = loads[name].result()
    assert code == 0, text
    header = json.loads((folder / "header.json").read_text(encoding="utf-8"))
    assert header["users"] == most_at_once(records(folder)) == users
    assert f"closed loop of {users} user(s)" in text
    assert "--spawn-rate" not in text
    assert ("--rate 8.0 is not used: a --closed-loop has no arrival rate" in text) == (users == 1)


def test_users_that_come_later_are_reported(loads: dict[str, Future[Ended]]) -> None:
    code, text, folder = loads["a ramp"].result()
    assert code == 0, text
    assert "of 300 users were there when the load began; the others came 0.5 a second" in text
    assert most_at_once(records(folder)) < 300


def test_loops_with_different_users_are_not_comparable(loads: dict[str, Future[Ended]]) -> None:
    six, one = (load(loads[name].result()[2]) for name in ("six users", "one user"))
    told = differences(six, one)
    assert [each.partition(" in ")[0] for each in told] == ["users is 6"]
    assert six.summary["header"]["requests_sha256"] == one.summary["header"]["requests_sha256"]


def test_a_broken_objective_sets_the_exit_code(loads: dict[str, Future[Ended]]) -> None:
    code, text, _ = loads["broken"].result()
    assert "BROKEN  e2e:p50<1us" in text
    assert code == 1, text


def test_a_search_finds_the_highest_rate(loads: dict[str, Future[Ended]]) -> None:
    code, text, folder = loads["search"].result()
    assert code == 1, text
    assert "no rate held the SLOs" in text
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "the lowest, as none held the SLOs" in page
    assert "TTFT: how many took how long" in page
    assert "TTFT against the offered rate" in page


def test_a_recording_is_measured_whole(loads: dict[str, Future[Ended]]) -> None:
    code, text, folder = loads["recording"].result()
    assert code == 0, text
    told = summary(folder)
    assert told["counts"]["scheduled"] == told["counts"]["completed"] == RECORDED
    assert told["rates"]["offered_per_s"] == pytest.approx(4)
    due = sorted(each.scheduled_at for each in records(folder))
    assert due == pytest.approx([place / 4 for place in range(RECORDED)])
    assert "of the recording's" not in text
    assert "--users 5 is not used: an open loop has a --rate" in text


def test_requests_of_a_recording_without_figures_are_reported(
    loads: dict[str, Future[Ended]],
) -> None:
    code, text, folder = loads["part of a recording"].result()
    assert code == 0, text
    kept = records(folder)
    assert [len(kept), sum(each.phase == WARMUP for each in kept)] == [4, 2]
    assert (
        "of the recording's 8 requests, 4 were not sent before the load ended and 2 were sent in "
        "the warm-up and are in no figure"
    ) in text


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence(loads: dict[str, Future[Ended]], name: str) -> None:
    code, text, folder = loads[name].result()
    assert code == 2, text
    assert BAD[name][1] in text
    assert sum(line.startswith("error: ") for line in text.splitlines()) == 1, text
    assert "Traceback" not in text
    assert "Aggregated" not in text, "Locust's empty table would hide the sentence"
    assert not (folder / "summary.json").exists()


def test_a_dead_worker_loses_no_results(loads: dict[str, Future[Ended]]) -> None:
    code, text, folder = loads["dead worker"].result()
    assert code == 3, text
    assert text.count("died at") == 1
    assert "its part of the load is missing" in text
    assert "Traceback" not in text
    assert len(records(folder)) > 20
    assert summary(folder)["counts"]["completed"] > 20


def test_a_dead_sender_loses_no_results(loads: dict[str, Future[Ended]]) -> None:
    code, text, folder = loads["dead sender"].result()
    assert code == EXIT_INVALID, text
    assert text.count("the process that sends the requests ended by SIGKILL") == 1
    assert "worker 0 died at" in text
    assert "Traceback" not in text
    assert summary(folder)["counts"]["completed"] > 0


def test_the_sender_does_not_use_gevent() -> None:
    """It would take the requests' sockets and threads for greenlets."""
    script = (
        "import sending.sender, sys; print(sorted({'gevent', 'locust', 'zmq'} & set(sys.modules)))"
    )
    path = os.pathsep.join(map(str, (ROOT / "loadtest", ROOT / "client")))
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_worker_that_pauses_is_not_dead(
    loads: dict[str, Future[Ended]],
) -> None:
    _, text, folder = loads["paused worker"].result()
    assert "died at" not in text
    assert "missing" not in text
    told = summary(folder)
    assert len(told["workers"]) == 2
    assert told["counts"]["completed"] == told["counts"]["scheduled"] > 0


def test_an_interrupted_run_keeps_its_results(loads: dict[str, Future[Ended]]) -> None:
    _, text, folder = loads["interrupted"].result()
    assert "the load was ended at" in text
    assert "Traceback" not in text
    told = summary(folder)
    assert 1 < told["header"]["duration_s"] < 300
    assert told["counts"]["completed"] > 0
    assert told["counts"]["failed"] == 0


def test_a_killed_run_keeps_its_ttft_split(loads: dict[str, Future[Ended]]) -> None:
    _, _, folder = loads["killed"].result()
    assert not (folder / "summary.json").exists()
    with (folder / "server.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"at_s": 9.0, "metr')  # as a kill leaves it
    page = write_report(folder).read_text(encoding="utf-8")
    told = json.loads((folder / "so-far.json").read_text(encoding="utf-8"))
    parts = {each["part"] for each in told["server"]["split"]["parts"]}
    assert {"queue", "prefill", "other"} <= parts
    assert "Where the mean TTFT was spent" in page
    assert "server.jsonl was cut off" in page


def test_a_folder_holds_one_run(tmp_path: Path) -> None:
    earlier = ("records-8.jsonl", "summary-8.json", "summary-8.csv", "summary.csv", "records.csv")
    for name in (*earlier, "summary.json", "records-mine.jsonl"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    output = RunOutput(str(tmp_path), records=True)
    output.begin("")
    output.close()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"records-mine.jsonl", "records.jsonl", "server.jsonl"}


BROKEN_TABLE = f"""
import sys
sys.path[:0] = [{str(ROOT / "loadtest")!r}]
from locustfile import *
from rounds import master

def broken(summary):
    raise RuntimeError("no table today")

master.run_table = broken
"""


def test_an_error_in_the_load_test_ends_the_run(
    replay_server: ServerProcess, tmp_path: Path
) -> None:
    """Locust would wait forever; the figures are written by then."""
    locustfile = tmp_path / "broken_locustfile.py"
    locustfile.write_text(BROKEN_TABLE, encoding="utf-8")
    arguments = command(replay_server.ports.url("grpc"), tmp_path / "run", *SHORT)
    arguments[arguments.index("-f") + 1] = str(locustfile)
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "the run broke off: RuntimeError: no table today" in done.stdout
    assert summary(tmp_path / "run")["counts"]["completed"] > 0


DEAF_AT_FIRST = f"""
import sys
sys.path[:0] = [{str(ROOT / "loadtest")!r}]
from locustfile import *
from locustfile import Worker

said, hears = [], Worker._prepare

def deaf(self, environment, msg, **more):
    if said:
        hears(self, environment, msg, **more)
    said.append(msg)

Worker._prepare = deaf
"""


def test_a_lost_message_to_a_worker_is_sent_again(
    replay_server: ServerProcess, tmp_path: Path
) -> None:
    """Locust connects a worker before it lets us listen; a busy machine can be between the two."""
    locustfile = tmp_path / "deaf_locustfile.py"
    locustfile.write_text(DEAF_AT_FIRST, encoding="utf-8")
    url, folder = replay_server.ports.url("grpc"), tmp_path / "run"
    arguments = command(url, folder, *SHORT, "--processes", "1")
    arguments[arguments.index("-f") + 1] = str(locustfile)
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert summary(folder)["counts"]["completed"] > 0


def test_ctrl_c_while_waiting_for_workers_gives_one_sentence(tmp_path: Path) -> None:
    ports = free_ports()
    arguments = command("127.0.0.1:1", tmp_path / "out", *SHORT, "--loglevel", "INFO")
    arguments += ["--master", "--expect-workers", "1", "--master-bind-port", str(ports.grpc)]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = list(
            itertools.takewhile(lambda it: "Waiting for workers" not in it, process.stdout)
        )
        process.send_signal(signal.SIGINT)
        lines += process.stdout
    assert process.returncode == 130, lines
    assert lines[-1] == "stopped before the load began: nothing was measured\n"
    assert not any("Traceback" in line for line in lines)


def test_the_number_of_processes_is_checked() -> None:
    parser = argparse.ArgumentParser()
    assert master_port_problem(parser, ["--processes", "-2"]).startswith(
        "--processes must be how many"
    )
    assert master_port_problem(parser, ["--processes", "-1"]) == ""


def test_ctrl_c_before_the_load_ends_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            command(url, tmp_path / "out", *SHORT), stdout=subprocess.PIPE, text=True
        )
        with silent.accept()[0]:  # it asks, and nobody answers
            process.send_signal(signal.SIGINT)
            text, _ = process.communicate()
    assert process.returncode == 130
    assert "stopped before the load began: nothing was measured" in text
    assert not (tmp_path / "out").exists()
