"""The OpenVINO runtime's queue: who starts first, and when a first forward pass began."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

from token_engine.openvino_runtime.engine import OpenVinoEngine

from tests.support.engine_answers import Answer, collect, drain, generate
from tests.support.small_engines import load_engine, random_prompt, request

PROMPT = random_prompt(20, seed=1)


def timed_steps(engine: OpenVinoEngine, answers: dict[int, Answer]) -> list[int]:
    """Step to the end; returns when each step began."""
    begun = []
    while engine.has_work:
        begun.append(time.time_ns())
        collect(engine.step(), answers)
    return [*begun, time.time_ns()]


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


def test_a_cancel_in_a_full_kv_cache_harms_nobody(folder: Path) -> None:
    """Not even those whose next token needs the cache that the cancelled one still holds."""
    roomy = load_engine(folder, num_kv_blocks=400, enable_prefix_caching=False)
    random = Random(3)
    for blocks, batch in ((4, 3), (5, 2), (8, 4)):
        options = {"num_kv_blocks": blocks, "max_batch_size": batch, "max_num_tokens": 33}
        engine = load_engine(folder, enable_prefix_caching=False, **options)
        requests, answers = {}, dict[int, Answer]()
        cancelled: set[int] = set()
        for key in range(60):
            length = random.randint(1, blocks * 32)
            most = min(blocks * 32 + 1 - length, random.choice((5, 60, 400)))
            requests[key] = request(key, random_prompt(length, seed=key), most)
            engine.submit(requests[key])
            victim = random.randint(max(0, key - 6), key)
            if random.random() < 0.3 and not answers.get(victim, Answer()).reason:
                cancelled.add(victim)
                engine.cancel(victim)
            for _ in range(random.choice((0, 1, 5, 20))):
                collect(engine.step(), answers)
        drain(engine, answers)
        survivors = [one for key, one in requests.items() if key not in cancelled]
        assert len(survivors) < 55
        truth = generate(roomy, *survivors)
        assert all(answers[one.key] == truth[one.key] for one in survivors)


def test_who_follows_a_cancelled_one_finds_room(folder: Path) -> None:
    engine = load_engine(folder, num_kv_blocks=4)
    engine.submit(request(1, random_prompt(110, seed=1), 10))
    engine.submit(request(2, random_prompt(70, seed=2), 5))
    for _ in range(5):
        engine.step()
    engine.cancel(1)
    answer = drain(engine)[2]
    assert (len(answer.tokens), answer.reason) == (5, "length")


def test_a_long_request_is_not_overtaken_for_ever(folder: Path) -> None:
    """It waits for room in the KV cache, and smaller ones that came later wait behind it."""
    engine = load_engine(folder, num_kv_blocks=4)
    for key, tokens in enumerate((60, 100, 5, 5)):
        engine.submit(request(key, PROMPT, tokens))
    engine.step()
    stats = engine.stats()
    assert (stats.active_requests, stats.queued_requests) == (1, 3)
    answers = drain(engine)
    begun = [answers[key].first_scheduled_ns for key in range(4)]
    assert begun == sorted(begun)


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
