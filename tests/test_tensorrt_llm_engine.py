"""The TensorRT-LLM runtime on a fake of the library: requests, batches, cancels, deaths.

The fake is made of the recorded signatures of three versions and behaves as their sources say
(tests/tensorrt_llm_fakes). What only hardware can show is not shown here.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from engine_fixtures import Answer, collect, drain, generate
from tensorrt_llm_fakes.fake_executor import Behaviour
from tensorrt_llm_fakes.fake_package import remove
from tensorrt_llm_fakes.rig import LIMITS, VERSIONS, Rig, Start, ask, greedy, prompt, start
from token_engine import async_engine, async_loop, tensorrt_llm_engine, tensorrt_llm_loop
from token_engine.async_loop import EngineLost
from token_engine.interface import SamplingParams

PATIENCE_S = 20.0


def eventually(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.005)


@pytest.mark.parametrize("version", VERSIONS)
def test_greedy_tokens_are_the_models(started: Start, version: str) -> None:
    engine = started(version).engine
    ids = prompt(20)
    answer = generate(engine, ask(1, ids, 40))[1]
    assert (answer.tokens, answer.reason) == (greedy(ids, 40), "length")  # not 32
    assert not engine.has_work


def test_each_token_comes_once_and_as_it_is_made(started: Start) -> None:
    engine = started(behaviour=Behaviour(step_seconds=0.01)).engine
    ids = prompt(5)
    engine.submit(ask(1, ids, 12))
    deltas = []
    while engine.has_work:
        deltas += engine.step()
    assert len(deltas) >= 6
    assert [token for delta in deltas for token in delta.token_ids] == greedy(ids, 12)
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)


def test_tokens_that_are_handed_over_together(started: Start) -> None:
    engine = started(stream_interval=5).engine
    ids = prompt(9)
    engine.submit(ask(1, ids, 12))
    sizes = []
    answers: dict[int, Answer] = {}
    while engine.has_work:
        deltas = engine.step()
        sizes += [len(delta.token_ids) for delta in deltas]
        collect(deltas, answers)
    assert sizes == [5, 5, 2]
    assert answers[1].tokens == greedy(ids, 12)


def mixed_requests() -> list[Any]:
    samplings = (
        None,
        SamplingParams(False, 0.8, seed=1),
        SamplingParams(False, 1.3, 5, seed=2),
        SamplingParams(False, 1.0, 0, 0.7, seed=2**64 - 1),
    )
    return [
        ask(key, prompt(length, key), 6 + key, (), samplings[key % 4])
        for key, length in enumerate((3, 30, 64, 65, 100, 1, 150, 40, 33, 70))
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_tokens_do_not_depend_on_the_batch(started: Start, version: str) -> None:
    """Everyone alone, all at once, and each joining while the earlier ones decode."""
    engine = started(version).engine
    requests = mixed_requests()
    alone = {one.key: generate(engine, one)[one.key] for one in requests}
    together = generate(engine, *requests)
    joined: dict[int, Answer] = {}
    for one in requests:
        engine.submit(one)
        collect(engine.step(), joined)
    drain(engine, joined)
    assert together == alone
    assert joined == alone


def test_the_batch_is_never_larger_and_those_that_wait_are_counted(started: Start) -> None:
    rig = started(behaviour=Behaviour(step_seconds=0.002))
    for key in range(10):
        rig.engine.submit(ask(key, prompt(4, key), 50))
    seen = []
    answers: dict[int, Answer] = {}
    while rig.engine.has_work:
        collect(rig.engine.step(), answers)
        stats = rig.engine.stats()
        seen.append((stats.active_requests, stats.queued_requests))
    assert max(active for active, _ in seen) == 4
    assert max(queued for _, queued in seen) == 6
    assert rig.llm._executor.most_active == 4
    assert [len(answer.tokens) for answer in answers.values()] == [50] * 10
    stats = rig.engine.stats()
    assert (stats.active_requests, stats.queued_requests, stats.kv_blocks_used) == (0, 0, 0)


def test_each_stage_of_a_pipeline_has_its_batch(started: Start) -> None:
    rig = started(behaviour=Behaviour(step_seconds=0.01, gpus=2), pipeline_parallel_size=2)
    for key in range(10):
        rig.engine.submit(ask(key, prompt(4, key), 100))

    def counts() -> tuple[int, int]:
        stats = rig.engine.stats()
        return stats.active_requests, stats.queued_requests

    eventually(lambda: counts() == (8, 2), "two full batches, and two that wait")


def test_kv_blocks_are_reported(started: Start) -> None:
    rig = started(behaviour=Behaviour(step_seconds=0.004))
    rig.engine.submit(ask(1, prompt(60), 500))
    answers: dict[int, Answer] = {}

    def reported() -> bool:
        collect(rig.engine.step(), answers)
        return rig.engine.stats().kv_blocks_used >= 2

    eventually(reported, "used KV blocks")
    assert rig.engine.stats().kv_blocks_total == 1000
    drain(rig.engine, answers)


def test_of_those_that_wait_the_lowest_number_starts_first(started: Start) -> None:
    limits = dataclasses.replace(LIMITS, max_batch_size=1)
    engine = started(limits=limits).engine
    for key, priority in enumerate((0, 5, -3, 0, -3, 9)):
        engine.submit(ask(key, prompt(3, key), 30, priority=priority))
    ended = []
    while engine.has_work:
        ended += [delta.key for delta in engine.step() if delta.finish_reason]
    assert ended in ([0, 2, 4, 3, 1, 5], [2, 4, 0, 3, 1, 5])  # the first may already run


@pytest.mark.parametrize("version", VERSIONS)
def test_any_end_id_stops_and_is_not_part_of_the_output(started: Start, version: str) -> None:
    """Also as the last token allowed, which the library calls "length" for all but the first."""
    engine = started(version).engine
    ids = prompt(20)
    whole = greedy(ids, 20)
    place = next(i for i, token in enumerate(whole) if i >= 4 and token not in whole[:i])
    end = whole[place]
    never = next(token for token in range(5, 300) if token not in whole)
    cases = {(end,): "stop", (never, end): "stop", (end, never): "stop", (never,): "length"}
    for key, (end_ids, reason) in enumerate(cases.items()):
        for limit in (20, place + 1):
            if reason == "stop" or limit == 20:
                answer = generate(engine, ask(key, ids, limit, end_ids))[key]
                expected = whole[:place] if reason == "stop" else whole
                assert (answer.tokens, answer.reason) == (expected, reason)
    at_once = generate(engine, ask(98, ids, 20, (never, whole[0])))[98]
    assert (at_once.tokens, at_once.reason) == ([], "stop")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("guides", ["", "xgrammar"])  # whether the library has a tokenizer
def test_without_end_ids_nothing_ends_a_generation(
    started: Start, version: str, guides: str
) -> None:
    """Neither the tokenizer's end id (2 in the fake) nor the checkpoint's."""
    rig = started(version, guided_decoding_backend=guides)
    key, ids = next(
        (seed, prompt(6, seed)) for seed in range(5000) if 2 in greedy(prompt(6, seed), 12)[:9]
    )
    answer = generate(rig.engine, ask(key, ids, 12))[key]
    assert (answer.tokens, answer.reason) == (greedy(ids, 12), "length")


def test_a_prompt_is_cut_in_chunks_and_no_longer_one_is_let_in_without(started: Start) -> None:
    ids = prompt(200)
    assert generate(started().engine, ask(1, ids, 5))[1].tokens == greedy(ids, 5)
    rig = started(enable_chunked_prefill=False)
    fits = ask(1, ids[:64], 5)
    too_long = [ask(2, ids[:65], 5), ask(3, ids[:60], 10, (2,), min_tokens=5)]
    answers = generate(rig.engine, fits, *too_long)
    assert answers[1].tokens == greedy(ids[:64], 5)
    for key in (2, 3):
        assert (answers[key].reason, answers[key].fault) == ("error", "invalid")
        assert "has 65 tokens with its min_tokens, allowed are 64" in answers[key].error
    assert len(rig.llm.requests) == 1
    rig.engine.submit(too_long[0])
    rig.engine.cancel(2)
    assert not rig.engine.has_work


def test_storm_of_cancels_harms_nobody(started: Start) -> None:
    """Cancels at every stage: unsubmitted, waiting, in prefill, decoding, ended, twice."""
    rig = started(behaviour=Behaviour(step_seconds=0.0005))
    engine, random = rig.engine, Random(1)
    requests = {one.key: one for one in mixed_requests()}
    truth = {key: generate(engine, one)[key] for key, one in requests.items()}
    answers: dict[int, Answer] = {}
    alive: list[int] = []
    cancelled: set[int] = set()
    for turn in range(200):
        key = 1000 + turn
        engine.submit(dataclasses.replace(requests[turn % 10], key=key))
        alive.append(key)
        for _ in range(random.randrange(3)):
            victim = random.choice(alive)
            if not answers.get(victim, Answer()).reason:
                cancelled.add(victim)
            engine.cancel(victim)
        engine.cancel(-5)
        deltas = engine.step()
        assert not cancelled & {delta.key for delta in deltas}
        collect(deltas, answers)
    drain(engine, answers)
    survivors = set(alive) - cancelled
    assert len(cancelled) > 40
    assert len(survivors) > 30
    for key in survivors:
        assert answers[key] == truth[(key - 1000) % 10]
    eventually(lambda: rig.llm._executor.active_requests == 0, "all places free")
    eventually(lambda: engine.stats().active_requests == 0, "no place held here")


def test_a_cancelled_request_gives_its_place_away(started: Start) -> None:
    rig = started(behaviour=Behaviour(step_seconds=0.002))
    for key in range(4):
        rig.engine.submit(ask(key, prompt(4, key), 500))
    rig.engine.submit(ask(4, prompt(4), 3))
    rig.engine.cancel(2)
    answers: dict[int, Answer] = {}
    while not answers.get(4, Answer()).reason:
        collect(rig.engine.step(), answers)
    assert answers[4].tokens == greedy(prompt(4), 3)
    assert 2 not in answers
    for key in (0, 1, 3):
        rig.engine.cancel(key)
    assert not rig.engine.has_work


def test_tokens_that_are_on_their_way_are_dropped(started: Start) -> None:
    rig = started()
    rig.engine.submit(ask(1, prompt(4), 20))
    eventually(lambda: rig.engine.stats().active_requests == 0 and bool(rig.llm.requests), "an end")
    rig.engine.cancel(1)
    assert rig.engine.step() == []
    assert not rig.engine.has_work


def test_a_place_is_free_again_though_the_library_never_confirms_an_abort(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_llm_loop, "ABORT_PATIENCE_S", 0.1)
    rig = started(behaviour=Behaviour(step_seconds=0.001, lose_aborts=True))
    for key in range(4):
        rig.engine.submit(ask(key, prompt(4, key), 500))
    eventually(lambda: len(rig.llm.requests) == 4, "a full batch")
    for key in range(4):
        rig.engine.cancel(key)
    assert generate(rig.engine, ask(9, prompt(4), 3))[9].tokens == greedy(prompt(4), 3)


@pytest.mark.parametrize(("after", "fault"), [(1, "invalid"), (3, "engine")])
def test_a_request_that_fails_ends_alone(started: Start, after: int, fault: str) -> None:
    """Its own fault if it was refused before it had a token."""
    bad = (7, *prompt(4))
    engine = started(behaviour=Behaviour(reject={7: after})).engine
    answers = generate(engine, ask(1, bad, 9), ask(2, prompt(4), 9))
    assert (answers[1].reason, answers[1].fault) == ("error", fault)
    assert answers[1].error == "the request was rejected"
    assert answers[1].tokens == greedy(bad, after - 1)
    assert answers[2].tokens == greedy(prompt(4), 9)


def test_what_the_library_refuses_at_once_is_the_requests_fault(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = started()
    monkeypatch.setattr(tensorrt_llm_engine, "library_params", lambda *_: invalid(rig))
    answer = generate(rig.engine, ask(1, prompt(4), 9))[1]
    assert (answer.reason, answer.fault) == ("error", "invalid")
    assert answer.error == "[TensorRT-LLM][ERROR] Assertion failed: topP"


def invalid(rig: Rig) -> Any:
    return rig.package.sampling_params(end_id=2, top_p=0.0)


def test_a_time_out_of_the_library(started: Start) -> None:
    engine = started(behaviour=Behaviour(time_out={7: 3})).engine
    ids = (7, *prompt(4))
    answer = generate(engine, ask(1, ids, 9))[1]
    assert (answer.tokens, answer.reason) == (greedy(ids, 3), "timeout")


def test_the_time_of_the_first_pass(started: Start) -> None:
    before = time.time_ns()
    answer = generate(started().engine, ask(1, prompt(4), 5))[1]
    assert before - 2e6 <= answer.first_scheduled_ns <= time.time_ns() + 2e6


def test_the_time_of_the_first_pass_is_that_of_the_first_part(started: Start) -> None:
    engine = started(behaviour=Behaviour(step_seconds=0.02)).engine
    before = time.time_ns()
    answer = generate(engine, ask(1, prompt(4), 14, (2,), min_tokens=10))[1]
    assert before - 2e6 <= answer.first_scheduled_ns < before + 150e6


@pytest.mark.parametrize("version", VERSIONS)
def test_dead_workers_end_the_engine(
    started: Start, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody tells those who wait for a response."""
    monkeypatch.setattr(async_loop, "WATCH_S", 0.05)
    engine = started(version, behaviour=Behaviour(step_seconds=0.001, die_at_step=5)).engine
    engine.submit(ask(1, prompt(4), 100))
    with pytest.raises(EngineLost, match=r"workers are dead|was killed by signal 9"):
        drain(engine)


def test_workers_that_hang_end_the_engine(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is stepped and gives nothing would look alive to the supervisor."""
    monkeypatch.setattr(async_loop, "WATCH_S", 0.05)
    limits = dataclasses.replace(LIMITS, hang_timeout_s=0.3)
    engine = started(behaviour=Behaviour(hang_at_step=5), limits=limits).engine
    engine.submit(ask(1, prompt(4), 100))
    began = time.monotonic()
    with pytest.raises(EngineLost, match="made no step in"):
        drain(engine)
    assert time.monotonic() - began >= 0.3


def test_a_long_prefill_is_no_hang(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes no token for many steps; the library's figures show that it moves."""
    monkeypatch.setattr(async_loop, "WATCH_S", 0.05)
    limits = dataclasses.replace(LIMITS, hang_timeout_s=3.0, max_num_tokens=8)
    engine = started(behaviour=Behaviour(step_seconds=0.05), limits=limits).engine
    ids = prompt(500)
    assert generate(engine, ask(1, ids, 2))[1].tokens == greedy(ids, 2)


def test_being_idle_is_no_hang(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TensorRT engine reports no figures, so that the first token is the first sign."""
    monkeypatch.setattr(async_loop, "WATCH_S", 0.05)
    limits = dataclasses.replace(LIMITS, hang_timeout_s=2.0)
    behaviour = Behaviour(step_seconds=0.1)
    engine = started(behaviour=behaviour, limits=limits, backend="tensorrt").engine
    time.sleep(2.3)
    ids = prompt(190)
    assert generate(engine, ask(1, ids, 2))[1].tokens == greedy(ids, 2)


def test_what_breaks_inside_is_fatal(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = started()
    monkeypatch.setattr(rig.llm._executor, "submit", None)
    rig.engine.submit(ask(1, prompt(4), 100))
    with pytest.raises(EngineLost, match="TensorRT-LLM has failed: 'NoneType'"):
        drain(rig.engine)


def test_a_step_waits_for_a_token_but_not_for_long(started: Start) -> None:
    engine = started(behaviour=Behaviour(step_seconds=0.3)).engine
    engine.submit(ask(1, prompt(4), 3))
    drain_first = engine.step  # the first token may come at once
    drain_first()
    began = time.monotonic()
    steps = 0
    while time.monotonic() - began < 0.1:
        engine.step()
        steps += 1
    assert 3 <= steps <= 30  # neither spins nor holds up the engine's loop
    engine.cancel(1)


def test_shutdown_with_work_left(started: Start, tmp_path: Path) -> None:
    threads = threading.active_count()
    rig = start(tmp_path / "engine", behaviour=Behaviour(step_seconds=0.001))
    for key in range(9):
        rig.engine.submit(ask(key, prompt(4, key), 500))
    rig.engine.step()
    executor = rig.llm._executor
    rig.engine.shutdown()
    assert executor.doing_shutdown
    eventually(lambda: threading.active_count() <= threads, "no thread left")


def test_shutdown_does_not_wait_for_a_library_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(async_engine, "SHUTDOWN_PATIENCE_S", 0.2)
    rig = start(tmp_path / "engine", behaviour=Behaviour(hang_on_shutdown=True))
    began = time.monotonic()
    rig.engine.shutdown()
    assert time.monotonic() - began < 5
    assert "did not shut down in 0.2 s" in capsys.readouterr().err
    remove()
