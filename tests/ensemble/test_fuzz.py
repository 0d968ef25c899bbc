"""Thousands of malformed requests, with right ones among them: each has one clean answer.

`make fuzz` asks more of them, with another seed. A failure names the command that asks it again.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from serving.child_server import ServerProcess, free_ports
from serving.processes import stubs_of

from tests.conftest import MakeRepository
from tests.fuzzing.cases import make_case
from tests.fuzzing.changes import CHANGES
from tests.fuzzing.drafts import INPUTS
from tests.fuzzing.lane import DEADLINE_S, Outcome
from tests.fuzzing.oracle import faults
from tests.fuzzing.run import Run, repeat_command
from tests.support.paths import ROOT
from tests.support.processes import eventually, is_alive, regions, server_memory_mib, triton_of

SEED = int(os.environ.get("FUZZ_SEED", "1"))
CASES = 8000  # on the replay engine
OPENVINO_CASES = 500
LEAVING_CASES = 800
MAX_GROWTH_MIB = 300.0  # 100 in the first 8,000 requests, 10 in the fourth
MAX_OPENVINO_GROWTH_MIB = 800.0  # 400 in the first 1,000, where the library makes room, then 20
PENDING = re.compile(r"^nv_inference_pending_request_count\{.*\} (\d+)", re.MULTILINE)


@contextmanager
def serving(
    repository: Path, folder: Path, codes: tuple[int, ...] = (0,)
) -> Iterator[ServerProcess]:
    """A server that ends with one of the codes, with no request left and nothing left behind."""
    server = ServerProcess(repository, free_ports(), folder / "server.log")
    server.start()
    stubs = stubs_of(triton_of(server.pid))
    try:
        yield server
        eventually(lambda: pending(server) == 0, "no request is pending")
    finally:
        code = server.stop()
    assert code in codes, server.log()[-3000:]
    assert not [stub.pid for stub in stubs if is_alive(stub.pid)]
    assert not regions(stubs)


def pending(server: ServerProcess) -> int:
    """How many requests Triton counts as waiting, for all models together."""
    with urllib.request.urlopen(f"http://{server.ports.url('metrics')}/metrics") as response:
        counts = PENDING.findall(response.read().decode())
    assert len(counts) >= len(INPUTS)
    return sum(map(int, counts))


def fuzz(
    server: ServerProcess, cases: int, leaving: bool = False, growth: float = MAX_GROWTH_MIB
) -> Run:
    """Ask the first cases of the seed; fail with what was wrong."""
    before = server_memory_mib(server)
    run = Run(server.ports, SEED, leaving=leaving)
    run.ask(iter(range(cases)))
    grown = server_memory_mib(server) - before
    print(f"{run.table()}\nmemory: {before:.0f} MiB before, {grown:+.0f} MiB")
    assert not run.faults, "\n".join(run.faults)
    assert grown < growth
    return run


@pytest.mark.timeout(300)
def test_every_malformed_request_has_one_clean_answer(
    replay_repository: Path, tmp_path: Path
) -> None:
    with serving(replay_repository, tmp_path) as server:
        run = fuzz(server, CASES)
    assert run.malformed >= 5000


@pytest.mark.timeout(300)
def test_the_real_engine_is_not_reached_by_them_either(
    make_repository: MakeRepository, tmp_path: Path
) -> None:
    repository = make_repository("--runtime", "openvino", "--precision", "f32")
    with serving(repository, tmp_path) as server:
        fuzz(server, OPENVINO_CASES, growth=MAX_OPENVINO_GROWTH_MIB)


@pytest.mark.timeout(300)
def test_clients_that_leave_malformed_requests_behind(
    replay_repository: Path, tmp_path: Path
) -> None:
    # Triton 2.51 keeps a request whose RPC was cancelled just as it ended, and then exits with 1.
    with serving(replay_repository, tmp_path, codes=(0, 1)) as server:
        fuzz(server, LEAVING_CASES, leaving=True)


def test_a_case_is_its_two_numbers() -> None:
    for index in range(300):
        assert make_case(SEED, index) == make_case(SEED, index)
    assert make_case(SEED, 0) != make_case(SEED + 1, 0)


def test_every_input_and_every_change_is_asked_about() -> None:
    """A new tensor is in the cases as soon as it is in a config.pbtxt."""
    sent = {
        (case.entry.model, name)
        for case in (make_case(SEED, index) for index in range(CASES))
        for name in INPUTS[case.entry.model]
        if name.encode() in case.payload
    }
    assert sent == {(model, name) for model, inputs in INPUTS.items() for name in inputs}
    changes = Counter(what for index in range(CASES) for what in make_case(SEED, index).what)
    assert set(changes) == {function.__name__ for function in CHANGES}
    assert min(changes.values()) > 20


FINE = Outcome("INVALID_ARGUMENT", "[INVALID_ARG] top_k is -1 and must be at least 0", finals=1)
WRONG = {
    "the code is INTERNAL": replace(FINE, code="INTERNAL", message="[INTERNAL] oh"),
    "the code is UNKNOWN": replace(FINE, code="UNKNOWN"),
    "the message reveals internals": replace(FINE, message="[INVALID_ARG] Traceback (most"),
    "reveals internals": replace(FINE, message="[INVALID_ARG] /work/model.py, line 7"),
    "the message has 900 characters": replace(FINE, message="[INVALID_ARG] ".ljust(900, "x")),
    "does not begin with an allowed code": replace(FINE, message="top_k is -1"),
    "the message says another": replace(FINE, code="UNIMPLEMENTED"),
    "2 ends": replace(FINE, finals=2),
    "without a message": replace(FINE, message=""),
    f"no answer in {DEADLINE_S:g} s": Outcome("DEADLINE_EXCEEDED", "Deadline Exceeded", finals=1),
    "no answer: reset": Outcome(broken="reset"),
    "the server is gone": Outcome("UNAVAILABLE", "failed to connect to all addresses", finals=1),
    "it is not refused": Outcome(responses=[{}], finals=1),
    "success without a response": Outcome(),
    "text_output must be BYTES": Outcome(responses=[{"text_output": ("INT32", [1])}], finals=1),
}


@pytest.mark.parametrize("fault", WRONG)
def test_the_oracle_sees(fault: str) -> None:
    case = next(
        case
        for case in (make_case(1, index) for index in itertools.count())
        if case.entry == ("tensorrt_llm_bls", "unary") and case.expect == "refusal" and case.named
    )
    assert not faults(case, FINE)
    assert any(fault in found for found in faults(case, WRONG[fault]))


def test_the_command_that_repeats_a_case_starts() -> None:
    command = repeat_command(make_case(SEED, 17), leaving=True).split()
    assert command[0] == ".venv/bin/python"
    done = subprocess.run(
        [sys.executable, *command[1:], "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert all(option in done.stdout for option in ("--seed", "--index", "--leaving"))
