"""The replay runtime keeps the seam's promises as far as a runtime without a model can."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from engine_config import EngineConfig, Limits, ModelFacts
from engine_fixtures import Answer, collect, drain, generate, request
from token_engine.interface import Guide, SamplingParams, UnsupportedParameter
from token_engine.replay_engine import ReplayEngine


def load_replay(batch: int = 4, step_seconds: float = 0.0) -> ReplayEngine:
    model = ModelFacts("model", 100, 1, [97, 98], "")
    limits = Limits(64, batch, 64, 4)
    options = {"step_seconds": step_seconds}
    return ReplayEngine(EngineConfig(1, "replay", model, limits, options))


def test_the_prompt_without_its_end_ids_is_played_cyclically() -> None:
    answers = generate(
        load_replay(),
        request(1, (5, 97, 6), 5, (97, 98), min_tokens=5),
        request(2, (97, 98), 5, (97, 98)),
    )
    assert (answers[1].tokens, answers[1].reason) == ([5, 6, 5, 6, 5], "length")
    assert (answers[2].tokens, answers[2].reason) == ([], "stop")


def test_sampling_has_no_effect() -> None:
    odd = SamplingParams(False, 3.0, 2, 0.1, 0.9, 7, 2.0, 1.0, -1.0)
    answers = generate(load_replay(), request(1, (5, 6), 4), request(2, (5, 6), 4, (), odd))
    assert answers[1] == answers[2]


def test_the_lowest_priority_number_starts_first() -> None:
    engine = load_replay(batch=1)
    engine.submit(request(0, (5,), 5, priority=9))
    engine.step()
    for key, priority in enumerate((5, -1, 5, 0, -1), 1):
        engine.submit(request(key, (5,), 3, priority=priority))
    engine.cancel(4)
    stats = engine.stats()
    assert (stats.active_requests, stats.queued_requests) == (1, 4)
    assert list(drain(engine)) == [0, 2, 5, 1, 3]


def test_the_last_delta_says_when_the_first_step_began() -> None:
    engine = load_replay(batch=1, step_seconds=0.01)
    for key in range(2):
        engine.submit(request(key, (5,), 3))
    begun, answers = [], dict[int, Answer]()
    while engine.has_work:
        begun.append(time.time_ns())
        collect(engine.step(), answers)
    for key, step in ((0, 0), (1, 3)):
        assert begun[step] <= answers[key].first_scheduled_ns < begun[step + 1]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("logprobs", {"logprobs": 0}),
        ("bad_words", {"bad_words": ((5,),)}),
        ("embedding_bias", {"token_bias": ((5, 1.0),)}),
        ("guided_decoding_guide_type", {"guide": Guide("json")}),
    ],
)
def test_what_needs_a_model_is_refused(name: str, changes: dict[str, Any]) -> None:
    engine = load_replay()
    with pytest.raises(UnsupportedParameter, match=f"{name} is given, the replay runtime"):
        engine.submit(replace(request(1, (5,), 3), **changes))
    assert not engine.has_work
