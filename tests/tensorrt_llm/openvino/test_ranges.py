"""The OpenVINO runtime takes every valid request, and refuses what it cannot do."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from reference.numpy_llama import ReferenceLlama
from token_engine.interface import GenerationRequest, SamplingParams, UnsupportedParameter
from token_engine.openvino_runtime import engine as openvino_engine
from token_engine.openvino_runtime.engine import OpenVinoEngine
from token_engine.openvino_runtime.sampling import generation_config

from tests.support.engine_answers import Floats, generate
from tests.support.small_engines import load_engine, random_prompt, request, sure_greedy

VOCAB = 512
PROMPT = random_prompt(20, seed=1)
GREEDY = SamplingParams()
SAMPLED = replace(GREEDY, greedy=False)


@pytest.fixture(scope="module")
def engine(folder: Path) -> OpenVinoEngine:
    return load_engine(folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"logprobs": 2}, "logprobs is 2; with the openvino runtime it must be 0"),
        ({"bad_words": ((5,), (6, 7))}, "bad_words is given; .* does not support it"),
        ({"token_bias": ((5, 1.0),)}, "embedding_bias is given; .* does not support it"),
        ({"sampling": replace(GREEDY, presence_penalty=-0.5)}, "presence_penalty is -0.5; .* 0$"),
        ({"sampling": replace(SAMPLED, frequency_penalty=2)}, "frequency_penalty is 2; .* 0$"),
        ({"end_ids": tuple(range(VOCAB)), "min_tokens": 1}, "min_tokens is 1, but must be 0 where"),
    ],
)
def test_what_the_library_cannot_do_is_refused(
    engine: OpenVinoEngine, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UnsupportedParameter, match=expected):
        engine.submit(replace(request(1, PROMPT, 5), **changes))
    assert not engine.has_work


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_why_presence_and_frequency_are_refused(
    engine: OpenVinoEngine, reference: ReferenceLlama, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The library rewards repeated tokens of negative logits (2026.4.1). If this fails because it
    follows OpenAI's formula now, both can be offered."""

    def with_penalty(genai: Any, one: GenerationRequest) -> Any:
        config = generation_config(genai, one)
        setattr(config, name, 1.5)
        return config

    monkeypatch.setattr(openvino_engine, "generation_config", with_penalty)

    def by_sign(logits: Floats, output: list[int]) -> Floats:
        before = logits.copy()
        penalized = openai(logits, output)
        return np.where(before < 0, 2 * before - penalized, penalized)

    def openai(logits: Floats, output: list[int]) -> Floats:
        for token, count in Counter(output).items():
            logits[token] -= 1.5 * (count if name == "frequency_penalty" else 1)
        return logits

    differ = 0
    for seed in range(6):
        prompt = random_prompt(30, seed=seed)
        tokens = generate(engine, request(seed, prompt, 40))[seed].tokens
        found = sure_greedy(reference, prompt, 40, by_sign)
        assert tokens[: len(found)] == found
        right = sure_greedy(reference, prompt, 40, openai)
        differ += tokens[: len(right)] != right
    assert differ


def test_the_ends_of_the_ranges(engine: OpenVinoEngine) -> None:
    """Where f32 would make zeros, infinities or NaN, or the library would raise."""
    greedy = generate(engine, request(0, PROMPT, 8))[0].tokens
    likeliest = (
        {"temperature": 1e-300},
        {"temperature": 1e-40, "top_k": 5},
        {"temperature": 1e-9, "top_k": 2**70},
        {"top_p": 1e-300},
        {"min_p": 1.0},
        {"min_p": 1 - 1e-12, "temperature": 0.7},
    )
    for key, changes in enumerate(likeliest, 1):
        sampling = replace(SAMPLED, seed=key, **changes)  # type: ignore[arg-type]
        assert generate(engine, request(key, PROMPT, 8, (), sampling))[key].tokens == greedy
    tiny = [replace(one, repetition_penalty=1e-300) for one in (GREEDY, SAMPLED)]
    answers = generate(engine, *(request(key, PROMPT, 8, (), tiny[key]) for key in range(2)))
    assert answers[0].tokens == answers[1].tokens  # one seen token has all the probability


def random_request(random: Random, key: int) -> GenerationRequest:
    """Anything that the interface's documented ranges allow and this runtime has."""

    def number(*ends: float) -> float:
        return random.choice([*ends, random.uniform(ends[0], ends[-1])])

    max_tokens = random.choice([1, 2, 7, 40])
    ends = random.choice([(), (0,), (5, 5, 7), tuple(range(VOCAB)), tuple(range(300))])
    sampling = SamplingParams(
        greedy=random.random() < 0.3,
        temperature=number(5e-324, 1e-40, 1e-8, 1.0, 100.0, 1e300),
        top_k=random.choice([0, 1, 3, VOCAB - 1, VOCAB, VOCAB + 1, 2**31, 2**64]),
        top_p=number(5e-324, 1e-40, 0.5, 1 - 1e-12, 1.0),
        min_p=number(0.0, 5e-324, 1e-40, 0.5, 1 - 1e-12, 1.0),
        seed=random.choice([0, 2**32, 2**64 - 1, random.randrange(2**64)]),
        repetition_penalty=number(5e-324, 1e-40, 0.5, 1.0, 1.7, 1e300),
    )
    return request(
        key,
        random_prompt(random.choice([1, 31, 32, 33, 100]), seed=key),
        max_tokens,
        ends,
        sampling,
        min_tokens=random.choice([0, 1, max_tokens]) if len(ends) < VOCAB else 0,
        logprobs=random.choice([None, 0]),
        priority=random.choice([0, -(2**63), 2**64]),
    )


def test_no_valid_request_harms_the_pipeline(engine: OpenVinoEngine) -> None:
    before = generate(engine, request(0, PROMPT, 20))[0]
    random = Random(7)
    requests = [random_request(random, key) for key in range(1, 301)]
    answers = generate(engine, *requests)
    for one in requests:
        answer = answers[one.key]
        assert answer.reason in ("stop", "length")
        assert all(0 <= token < VOCAB for token in answer.tokens)
        assert len(answer.logprobs) == (0 if one.logprobs is None else len(answer.tokens))
    assert generate(engine, request(0, PROMPT, 20))[0] == before
