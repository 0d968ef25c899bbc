"""The replay runtime keeps the seam's promises as far as a runtime without a model can."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine_config import EngineConfig, Limits, ModelFacts
from token_engine.interface import Guide, SamplingParams, UnsupportedParameter
from token_engine.replay import ReplayEngine

from tests.support.engine_answers import Answer, Floats, collect, generate
from tests.support.runtime_streams import StreamSuite
from tests.support.runtime_subject import Subject
from tests.support.small_engines import request


def load_replay(batch: int = 4, step_seconds: float = 0.0, length: int = 64) -> ReplayEngine:
    model = ModelFacts("model", 100, 1, [97, 98], "")
    limits = Limits(length, batch, 64, 4)
    options = {"step_seconds": step_seconds}
    return ReplayEngine(EngineConfig(1, "replay", model, limits, options))


def random_words(length: int, seed: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(5, 97, length).tolist())


def playback(prompt: Sequence[int], count: int) -> list[int]:
    return [prompt[place % len(prompt)] for place in range(count)]


def no_logits(tokens: Sequence[int]) -> Floats:
    raise AssertionError("a runtime without a model has none")


class TestReplay(StreamSuite):
    @pytest.fixture
    def subject(self) -> Subject:
        engine, eos = load_replay(4, 0.0005, 600), (97, 98)
        facts = (no_logits, random_words, 100, eos, 4, 64, 600)
        return Subject("replay", engine, *facts, tells_kv_blocks=False, play=playback)


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
    with pytest.raises(UnsupportedParameter, match=f"{name} is given; the replay runtime"):
        engine.submit(replace(request(1, (5,), 3), **changes))
    assert not engine.has_work
