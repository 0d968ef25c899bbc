"""The OpenVINO runtime's choice of tokens against plain definitions on the reference's logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reference.numpy_llama import ReferenceLlama
from token_engine.interface import SamplingParams, TokenLogprob
from token_engine.openvino_runtime.engine import OpenVinoEngine

from tests.support.engine_answers import Floats, generate
from tests.support.small_engines import load_engine, random_prompt, request

VOCAB = 512
PROMPT = random_prompt(20, seed=1)
GREEDY = SamplingParams()
SAMPLED = replace(GREEDY, greedy=False, seed=0)


@pytest.fixture(scope="module")
def engine(folder: Path) -> OpenVinoEngine:
    return load_engine(folder)


def plain_distribution(logits: Floats, sampling: SamplingParams, banned: Sequence[int]) -> Floats:
    """In Hugging Face's order: bans and penalties, temperature, top_k, top_p, min_p.

    top_p keeps the fewest most likely tokens that reach it; min_p keeps those whose probability is
    at least min_p times the likeliest one's.
    """
    logits = repetition_penalized(logits, PROMPT, [], sampling.repetition_penalty)
    logits[list(banned)] = -np.inf
    weights = np.exp((logits - logits.max()) / sampling.temperature)
    order = np.argsort(-weights)
    if sampling.top_k:
        weights[order[sampling.top_k :]] = 0
    share = np.cumsum(weights[order]) / weights.sum()
    weights[order[np.searchsorted(share, sampling.top_p) + 1 :]] = 0
    weights[weights < sampling.min_p] = 0  # the likeliest one's weight is 1
    shares: Floats = weights / weights.sum()
    return shares


def repetition_penalized(
    logits: Floats, prompt: Sequence[int], output: Sequence[int], penalty: float
) -> Floats:
    penalized = logits.copy()
    for token in {*prompt, *output}:
        penalized[token] *= penalty if logits[token] < 0 else 1 / penalty
    return penalized


@pytest.mark.parametrize(
    ("sampling", "banned"),
    [
        (replace(SAMPLED, temperature=0.3), 0),
        (replace(SAMPLED, temperature=1.0, top_k=5), 0),
        (replace(SAMPLED, temperature=0.1, top_p=0.7), 0),
        (replace(SAMPLED, temperature=0.5, top_k=6, top_p=0.5), 0),
        (replace(SAMPLED, temperature=0.2, top_k=8, top_p=0.9), 0),
        (replace(SAMPLED, temperature=0.02), 0),
        (replace(SAMPLED, temperature=0.1, min_p=0.3), 0),
        (replace(SAMPLED, temperature=0.5, min_p=0.8, top_k=6), 0),
        (replace(SAMPLED, temperature=0.1, min_p=0.3, top_p=0.6), 0),
        (replace(SAMPLED, temperature=0.1, min_p=0.1, repetition_penalty=1.8), 0),
        (replace(SAMPLED, temperature=0.05, repetition_penalty=0.6), 0),
        (replace(SAMPLED, temperature=0.1), 5),
        (replace(SAMPLED, temperature=0.1, top_k=5), 5),
        (replace(SAMPLED, temperature=0.1, min_p=0.3, top_p=0.8), 5),
    ],
    ids=str,
)
def test_sampling_follows_the_plain_definition(
    engine: OpenVinoEngine, reference: ReferenceLlama, sampling: SamplingParams, banned: int
) -> None:
    """Draws of the first token; `banned` of the likeliest are end ids that min_tokens forbids."""
    reference.reset()
    logits = reference.forward(PROMPT)[-1].astype(np.float64)
    ends = tuple(np.argsort(-logits)[:banned].tolist())
    expected = plain_distribution(logits, sampling, ends)
    draws = 600
    answers = generate(
        engine,
        *(
            request(seed, PROMPT, 1, ends, replace(sampling, seed=seed), min_tokens=1)
            for seed in range(draws)
        ),
    )
    counts = np.bincount([answer.tokens[0] for answer in answers.values()], minlength=VOCAB)
    assert counts[expected == 0].sum() == 0
    distance = np.abs(counts / draws - expected).sum() / 2
    # What a sample of this size differs by on average; seeds are fixed, so this cannot flicker.
    noise = np.sqrt(2 / np.pi * expected * (1 - expected) / draws).sum() / 2
    assert distance < 1.5 * noise + 0.01


def test_min_tokens_up_to_max_tokens(engine: OpenVinoEngine) -> None:
    half = tuple(range(0, VOCAB, 2))
    samplings = (GREEDY, SAMPLED, replace(SAMPLED, temperature=50.0, top_k=400))
    for key, sampling in enumerate(samplings):
        answer = generate(engine, request(key, PROMPT, 40, half, sampling, min_tokens=40))[key]
        assert (len(answer.tokens), answer.reason) == (40, "length")
        assert not set(answer.tokens) & set(half)


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        replace(GREEDY, repetition_penalty=2.0),
        SAMPLED,
        replace(SAMPLED, temperature=0.3),
        replace(SAMPLED, temperature=4.0),
        replace(SAMPLED, temperature=1.5, top_k=7),
        replace(SAMPLED, temperature=1.5, top_p=0.4),
        replace(SAMPLED, min_p=0.6),
        replace(SAMPLED, temperature=0.5, top_k=20, top_p=0.9, min_p=0.1, repetition_penalty=1.5),
    ],
    ids=str,
)
@pytest.mark.parametrize("min_tokens", [0, 15])
def test_logprobs_are_of_the_raw_logits(
    engine: OpenVinoEngine, reference: ReferenceLlama, sampling: SamplingParams, min_tokens: int
) -> None:
    """Temperature, filters, penalties and bans move the choice, never the log-probability."""
    ends = tuple(range(0, VOCAB, 3)) if min_tokens else ()
    one = request(1, PROMPT, 30, ends, sampling, min_tokens=min_tokens)
    asked = generate(engine, replace(one, logprobs=0))[1]
    assert len(asked.tokens) >= min_tokens
    assert_raw_logprobs(reference, PROMPT, asked.tokens, asked.logprobs)
    unasked = generate(engine, one)[1]
    assert (unasked.tokens, unasked.reason) == (asked.tokens, asked.reason)
    assert unasked.logprobs == []


def assert_raw_logprobs(
    reference: ReferenceLlama,
    prompt: Sequence[int],
    tokens: Sequence[int],
    logprobs: Sequence[TokenLogprob],
) -> None:
    reference.reset()
    logits = reference.forward([*prompt, *tokens])[len(prompt) - 1 : -1].astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    expected = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    assert [one.top for one in logprobs] == [()] * len(tokens)
    given = [one.logprob for one in logprobs]
    assert given == pytest.approx(expected[np.arange(len(tokens)), list(tokens)], abs=1e-5)


def test_choices_survive_a_full_kv_cache(folder: Path, reference: ReferenceLlama) -> None:
    """Some wait for others; bans, penalties and log-probabilities go on."""
    engine = load_engine(folder, num_kv_blocks=4)
    samplings = (replace(GREEDY, repetition_penalty=1.5), replace(SAMPLED, temperature=0.5))
    requests = [
        request(
            key,
            random_prompt(40 + key, seed=key),
            60,
            tuple(range(0, VOCAB, 4)),
            replace(samplings[key % 2], seed=key),
            min_tokens=50,
            logprobs=0,
        )
        for key in range(6)
    ]
    alone = [generate(engine, one)[one.key] for one in requests]
    together = generate(engine, *requests)
    for one, answer in zip(requests, alone, strict=True):
        assert len(answer.tokens) >= 50
        assert together[one.key].tokens == answer.tokens
        assert_raw_logprobs(reference, one.prompt_ids, answer.tokens, together[one.key].logprobs)
