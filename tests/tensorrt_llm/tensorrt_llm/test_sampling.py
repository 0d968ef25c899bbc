"""The TensorRT-LLM runtime's choice of tokens against plain definitions, on a fake of the library.

The fake's samplers do and omit what their sources say: so a parameter that reaches the
wrong one, or reaches it unconverted, gives other tokens than the definitions here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest
from token_engine.interface import SamplingParams

from tests.fakes.tensorrt_llm.fake_executor import Behaviour
from tests.fakes.tensorrt_llm.fake_sampler import Floats, model_logits
from tests.fakes.tensorrt_llm.rig import (
    END_IDS,
    GREEDY,
    SAMPLED,
    VERSIONS,
    VOCAB,
    Start,
    ask,
    greedy,
    prompt,
)
from tests.support.engine_answers import generate
from tests.support.runtime_subject import distribution as plain_distribution


def penalized(
    logits: Floats, ids: Sequence[int], output: Sequence[int], sampling: SamplingParams
) -> Floats:
    """As `token_engine/interface.py` says it."""
    logits = logits.copy()
    for token in {*ids, *output}:
        factor = sampling.repetition_penalty
        logits[token] *= factor if logits[token] < 0 else 1 / factor
    for token in set(output):
        logits[token] -= sampling.presence_penalty
        logits[token] -= sampling.frequency_penalty * list(output).count(token)
    return logits


distribution = partial(plain_distribution, min_p_first=False)  # as the library's
EDGES = [  # 0 in the library's f32, which it refuses
    replace(SAMPLED, temperature=1e-50),
    replace(SAMPLED, temperature=2.0, top_p=1e-50),
]
MORE = [
    replace(SAMPLED, temperature=0.8, min_p=0.2),
    replace(SAMPLED, temperature=0.6, repetition_penalty=1.8),
]
OF_OUTPUT = [
    replace(SAMPLED, temperature=0.5, presence_penalty=1.0),
    replace(SAMPLED, temperature=2.0, frequency_penalty=0.7, presence_penalty=-0.5),
    replace(SAMPLED, temperature=0.5, repetition_penalty=1.3, frequency_penalty=1.5),
]
CASES = [
    *[("1_0", "auto", one) for one in EDGES + MORE],
    *[("1_2", "auto", one) for one in EDGES + MORE + OF_OUTPUT],
    *[("1_2", "TorchSampler", one) for one in EDGES],
    *[("head", "auto", one) for one in EDGES + MORE + OF_OUTPUT],
]


@pytest.mark.parametrize(("version", "sampler", "sampling"), CASES, ids=str)
def test_sampling_follows_the_plain_definition(
    started: Start, version: str, sampler: str, sampling: SamplingParams
) -> None:
    """Draws of the first token, and of the third after the commonest two."""
    engine = started(version, sampler_type=sampler).engine
    ids = (*prompt(12), *prompt(6), *prompt(6))
    draws = 150
    seeded = engine._library.sampler.seeds
    answers = generate(
        engine,
        *(
            ask(seed, ids, 3, (), replace(sampling, seed=seed if seeded else None))
            for seed in range(3 * draws)
        ),
    )
    made = [tuple(answer.tokens) for answer in answers.values()]
    begins = [one[:2] for one in made]
    begin = max(set(begins), key=begins.count)
    logits = penalized(model_logits([*ids, *begin], VOCAB), ids, begin, sampling)
    thirds = [one[2] for one in made if one[:2] == begin]
    check_draws(thirds, distribution(logits, sampling), seeded)
    first = distribution(penalized(model_logits(ids, VOCAB), ids, (), sampling), sampling)
    check_draws([one[0] for one in made], first, seeded)


def check_draws(draws: Sequence[int], expected: Floats, seeded: bool = True) -> None:
    counts = np.bincount(draws, minlength=VOCAB)
    assert counts[expected < 1e-9].sum() == 0
    distance = np.abs(counts / len(draws) - expected).sum() / 2
    # What a sample of this size differs by on average. Where seeds are honoured this cannot
    # flicker; where they are not, the draws differ from run to run.
    noise = np.sqrt(2 / np.pi * expected * (1 - expected) / len(draws)).sum() / 2
    assert distance < (1.5 if seeded else 3) * noise + (0.02 if seeded else 0.05)


@pytest.mark.parametrize("version", ["1_2", "head"])
@pytest.mark.parametrize("sampling", OF_OUTPUT, ids=str)
def test_penalties_and_temperature_together(
    started: Start, version: str, sampling: SamplingParams
) -> None:
    """Penalties are subtracted from logits that the temperature has not divided yet. Six tokens
    that a bias makes likely come again and again."""
    engine = started(version).engine
    seeded = engine._library.sampler.seeds
    ids = (*prompt(12), 60, 61)
    bias = tuple((token, 12.0) for token in range(60, 66))
    answers = generate(
        engine,
        *(
            ask(seed, ids, 3, (), replace(sampling, seed=seed if seeded else None), token_bias=bias)
            for seed in range(600)
        ),
    )
    made = [tuple(answer.tokens) for answer in answers.values()]
    begins = [one[:2] for one in made]
    for begin in sorted(set(begins), key=begins.count)[-3:]:
        logits = model_logits([*ids, *begin], VOCAB)
        for token, value in bias:
            logits[token] += value
        expected = distribution(penalized(logits, ids, begin, sampling), sampling)
        check_draws([one[2] for one in made if one[:2] == begin], expected, seeded)


@pytest.mark.parametrize("version", ["1_2", "head"])
def test_all_penalties_on_greedy_choices(started: Start, version: str) -> None:
    """Together, after a prompt of most of the vocabulary, which two of them must not count."""
    engine = started(version).engine
    sampling = replace(GREEDY, repetition_penalty=0.7, presence_penalty=0.4, frequency_penalty=0.1)
    for seed in range(8):
        ids = prompt(200, seed)
        expected = greedy(
            ids,
            40,
            lambda logits, output, ids=ids: penalized(logits, ids, output, sampling),
        )
        assert generate(engine, ask(seed, ids, 40, (), sampling))[seed].tokens == expected
        assert expected != greedy(ids, 40)  # else nothing was shown


@pytest.mark.parametrize("version", VERSIONS)
def test_a_greedy_request_sends_nothing_else(started: Start, version: str) -> None:
    rig = started(version)
    odd = replace(GREEDY, temperature=5.0, top_k=3000, top_p=0.1, min_p=0.9, seed=9)
    generate(rig.engine, ask(1, prompt(9), 20, (), odd))
    sent = {
        field.name: getattr(rig.sent, field.name)
        for field in fields(rig.sent)
        if getattr(rig.sent, field.name) != field.default
    }
    assert sent == {
        "max_tokens": 20,
        "end_id": END_IDS[0],
        "pad_id": END_IDS[0],  # the library's own doing
        "best_of": 1,  # as well
        "ignore_eos": True,
        "top_k": 1,
        "detokenize": False,
        "return_perf_metrics": True,
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_min_tokens_with_a_penalty(started: Start, version: str) -> None:
    """Over both generations that the request becomes."""
    engine = started(version).engine
    sampling = replace(GREEDY, repetition_penalty=1.4)
    ids = prompt(20)
    ends = tuple(dict.fromkeys(greedy(ids, 12)))
    for key, least in enumerate((0, 1, 2, 5, 11, 29, 30)):

        def banned(logits: Floats, output: list[int], least: int = least) -> Floats:
            logits = penalized(logits, ids, output, sampling)
            if len(output) < least:
                logits[list(ends)] = -np.inf
            return logits

        whole = greedy(ids, 30, banned)
        place = next((i for i, token in enumerate(whole) if token in ends), 30)
        assert place >= least
        answer = generate(engine, ask(key, ids, 30, ends, sampling, min_tokens=least))[key]
        reason = "stop" if place < 30 else "length"
        assert (answer.tokens, answer.reason) == (whole[:place], reason)


def test_the_second_part_draws_again_and_counts_the_first(started: Start) -> None:
    rig = started("1_2")
    sampling = replace(SAMPLED, seed=2**64 - 1, presence_penalty=1.0, temperature=0.5)
    answer = generate(rig.engine, ask(1, prompt(9), 20, (2, 3), sampling, min_tokens=8))[1]
    first, second = (params for _, params in rig.llm.requests)
    assert (first.max_tokens, second.max_tokens) == (8, 12)
    assert rig.llm.requests[1][0] == [*prompt(9), *answer.tokens[:8]]
    assert (first.seed, second.seed) == (first.seed, 7)
    assert first.prompt_ignore_length == second.prompt_ignore_length == 9
    assert first.presence_penalty == second.presence_penalty == 2.0
    assert (first.ignore_eos, second.ignore_eos) == (True, False)
    assert (second.end_id, second.stop_token_ids, second.embedding_bias) == (2, [3], None)


def test_a_cancel_between_the_parts(started: Start) -> None:
    rig = started(behaviour=Behaviour(step_seconds=0.01))
    rig.engine.submit(ask(1, prompt(9), 40, (2, 3), min_tokens=4))
    seen = 0
    while seen < 4:
        seen += sum(len(delta.token_ids) for delta in rig.engine.step())
    rig.engine.cancel(1)
    assert not rig.engine.has_work
    assert generate(rig.engine, ask(2, prompt(9), 3))[2].tokens == greedy(prompt(9), 3)


@pytest.mark.parametrize("version", VERSIONS)
def test_bad_words_of_one_and_of_several_tokens(started: Start, version: str) -> None:
    engine = started(version).engine
    ids = prompt(20)
    plain = greedy(ids, 30)
    words = ((plain[0],), (plain[4], plain[5]), (plain[9], plain[10], plain[11]), (250, 251))

    def without(logits: Floats, output: list[int]) -> Floats:
        for word in words:
            if [*ids, *output][len(ids) + len(output) - len(word) + 1 :] == list(word[:-1]):
                logits[word[-1]] = -np.inf
        return logits

    expected = greedy(ids, 30, without)
    assert expected != plain
    assert generate(engine, ask(1, ids, 30, bad_words=words))[1].tokens == expected
    several = words[1:]
    answer = generate(engine, ask(2, ids, 30, bad_words=several))[2]
    assert answer.tokens[:5] == plain[:5]
    assert answer.tokens[5] != plain[5]
