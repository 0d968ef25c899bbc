"""The OpenVINO runtime's queue: who starts first, and when a first forward pass began."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from engine_fixtures import (
    Answer,
    build_engine,
    collect,
    drain,
    generate,
    load_engine,
    random_prompt,
    request,
    write_checkpoint,
)
from token_engine.openvino_engine import OpenVinoEngine

PROMPT = random_prompt(20, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    return build_engine(write_checkpoint(folder / "checkpoint"), folder / "engine")


def timed_steps(engine: OpenVinoEngine, answers: dict[int, Answer]) -> list[int]:
    """Step to the end; returns when each step began."""
    begun = []
    while engine.has_work:
        begun.append(time.time_ns())
        collect(engine.step(), answers)
    return [*begun, time.time_ns()]


def test_the_lowest_priority_number_starts_first(folder: Path) -> None:
    """Among equals the first that came; who runs is not put aside."""
    engine = load_engine(folder, max_batch_size=1)
    engine.submit(request(0, PROMPT, 5, priority=9))
    engine.step()
    for key, priority in enumerate((5, -1, 5, 0, -1), 1):
        engine.submit(request(key, PROMPT, 3, priority=priority))
    engine.cancel(4)
    assert list(drain(engine)) == [0, 2, 5, 1, 3]


def test_first_pass_of_those_who_wait_for_a_place(folder: Path) -> None:
    engine = load_engine(folder, max_batch_size=2)
    for key, tokens in enumerate((4, 8, 5)):
        engine.submit(request(key, PROMPT, tokens))
    answers: dict[int, Answer] = {}
    begun = timed_steps(engine, answers)
    for key, step in {0: 0, 1: 0, 2: 4}.items():
        assert begun[step] <= answers[key].first_scheduled_ns <= begun[step + 1]


def test_first_pass_of_those_who_wait_for_the_prefill_of_others(folder: Path) -> None:
    """16 tokens a step: the first prompt leaves 12 of the seventh step to the second one, which
    is done with 11 or 15 a step when the first one decodes, and so on."""
    engine = load_engine(folder, max_num_tokens=16, max_batch_size=4)
    for key, length in enumerate((100, 41, 14)):
        engine.submit(request(key, random_prompt(length, seed=key), 20))
    answers: dict[int, Answer] = {}
    begun = timed_steps(engine, answers)
    # Step 6 takes 4 + 12, step 7 takes 1 + 15, step 8 takes 1 + 14 and leaves 1.
    for key, step in {0: 0, 1: 6, 2: 8}.items():
        assert begun[step] <= answers[key].first_scheduled_ns <= begun[step + 1]


def test_every_request_that_ran_says_when_it_began(folder: Path) -> None:
    """Without room for all in the KV cache too; never before the submission."""
    engine = load_engine(folder, num_kv_blocks=4)
    before = time.time_ns()
    requests = [request(key, random_prompt(40 + key, seed=key), 60) for key in range(6)]
    answers = generate(engine, *requests, request(9, PROMPT, 500))
    after = time.time_ns()
    assert answers.pop(9).first_scheduled_ns == 0  # can never fit, so it never ran
    times = [answers[key].first_scheduled_ns for key in range(6)]
    assert times == sorted(times)
    assert before <= times[0]
    assert times[-1] < after
