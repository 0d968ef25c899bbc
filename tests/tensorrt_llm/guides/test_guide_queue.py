"""Guides on their way into the pipeline: the prover is there before them, and proofs are kept."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from token_engine.interface import Guide
from token_engine.openvino_runtime import guide_queue
from token_engine.openvino_runtime.prover_process import PROGRAM, Proof, ProverProcess

from tests.support.byte_engine import guided, write_byte_engine
from tests.support.engine_answers import drain, generate
from tests.support.processes import children, command_line
from tests.support.small_engines import load_engine

WORD = Guide("regex", "[a-c]{4}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_engine(tmp_path_factory.mktemp("bytes"))


def provers() -> list[int]:
    return [pid for pid in children(os.getpid()) if PROGRAM in command_line(pid)]


def test_the_prover_is_there_before_the_first_guide_and_ends_with_the_engine(folder: Path) -> None:
    engine = load_engine(folder)
    engine.prepare()
    (pid,) = provers()
    assert generate(engine, guided(1, WORD))[1].reason == "stop"
    assert provers() == [pid]
    engine.shutdown()
    assert provers() == []


def test_no_guide_is_blamed_for_a_prover_that_died_before_it(folder: Path) -> None:
    prover = ProverProcess(folder / guide_queue.FOLDER, guide_queue.LIMITS)
    prover.begin(WORD)
    while (result := prover.result(1.0)) is None:
        pass
    assert isinstance(result, Proof)
    (pid,) = provers()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    prover.begin(WORD)
    while (result := prover.result(1.0)) is None:
        pass
    prover.stop()
    assert isinstance(result, Proof)


def test_a_new_pipeline_needs_no_new_proofs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load_engine(folder)
    before = generate(engine, guided(1, WORD, 7))[1]
    old = engine._guides
    with monkeypatch.context() as patch:
        patch.setattr(guide_queue, "MOST_BYTES", 0)
        assert drain(engine) == {}
    assert engine._guides is not old
    monkeypatch.setattr(ProverProcess, "begin", None)  # nothing is proven any more
    after = generate(engine, guided(1, WORD, 7))[1]
    engine.shutdown()
    assert (after.tokens, after.reason) == (before.tokens, before.reason)


def test_proofs_are_remembered_within_bounds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load_engine(folder)
    guides = [Guide("regex", f"{letter}{{4}}") for letter in "abc"]
    generate(engine, *(guided(n, guide) for n, guide in enumerate(guides)))
    sizes = [len(guide.text) + len(proof.ebnf) for guide, proof in engine._guides._proven.items()]
    monkeypatch.setattr(guide_queue, "MOST_REMEMBERED_BYTES", sum(sizes[1:]))
    assert [*engine._guides.remembered()] == guides[1:]
    engine.shutdown()
