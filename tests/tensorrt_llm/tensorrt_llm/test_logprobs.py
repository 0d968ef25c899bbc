"""The TensorRT-LLM runtime's log-probabilities and guides, on a fake of the library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from token_engine.interface import Guide, SamplingParams

from tests.fakes.tensorrt_llm.fake_sampler import log_softmax, model_logits
from tests.fakes.tensorrt_llm.rig import (
    GREEDY,
    SAMPLED,
    TORCH,
    VERSIONS,
    VOCAB,
    Start,
    ask,
    greedy,
    prompt,
)
from tests.support.engine_answers import Answer, generate


def check_logprobs(ids: Sequence[int], answer: Answer, top: int) -> None:
    assert len(answer.logprobs) == len(answer.tokens)
    for place, (token, one) in enumerate(zip(answer.tokens, answer.logprobs, strict=True)):
        values = log_softmax(model_logits([*ids, *answer.tokens[:place]], VOCAB))
        assert one.logprob == pytest.approx(values[token], abs=1e-9)
        best = np.argsort(-values)[:top].tolist()
        assert [token for token, _ in one.top] == best
        assert [value for _, value in one.top] == pytest.approx(values[best].tolist(), abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "sampling", "top"),
    [
        ({"version": "1_0"}, GREEDY, 0),
        ({"version": "1_2"}, GREEDY, 0),
        ({"version": "1_2"}, SAMPLED, 0),
        ({"version": "1_2"}, replace(SAMPLED, top_k=40, top_p=0.9), 0),
        (TORCH, GREEDY, 0),
        (TORCH, GREEDY, 5),
        ({"version": "head"}, GREEDY, 0),
        ({"version": "head"}, GREEDY, 5),
        ({"version": "head"}, replace(SAMPLED, temperature=2.0, top_k=40), 0),
        ({"version": "head"}, replace(SAMPLED, temperature=2.0), 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("interval", [1, 4])
def test_logprobs_are_of_the_raw_logits(
    started: Start, settings: dict[str, Any], sampling: SamplingParams, top: int, interval: int
) -> None:
    """One for each token, and none for the end id that was taken off."""
    engine = started(**settings, stream_interval=interval).engine
    ids = prompt(20)
    repeats = sampling.greedy or engine._library.sampler.seeds
    sampling = replace(sampling, seed=3 if repeats else None)
    whole = generate(engine, ask(1, ids, 30, (), sampling, logprobs=top))[1]
    check_logprobs(ids, whole, top)
    ends = (whole.tokens[17], whole.tokens[21])
    stopped = generate(engine, ask(2, ids, 30, ends, sampling, logprobs=top))[2]
    check_logprobs(ids, stopped, top)
    unasked = generate(engine, ask(3, ids, 30, (), sampling))[3]
    assert unasked.logprobs == []
    if repeats:
        assert stopped.tokens == whole.tokens[: len(stopped.tokens)]
        assert stopped.reason == "stop"
        assert unasked.tokens == whole.tokens


class Forgetful(list[Any]):
    """Keeps nothing."""

    def append(self, item: Any) -> None:
        """Forget it."""


def test_a_logprob_that_the_library_owes_is_an_error(started: Start) -> None:
    rig = started()
    advance = rig.worker._advance

    def forgetful(job: Any, generator: Any) -> None:
        job.logprobs = Forgetful()
        advance(job, generator)

    rig.worker._advance = forgetful
    answer = generate(rig.engine, ask(1, prompt(9), 20, logprobs=0))[1]
    assert (answer.reason, answer.fault) == ("error", "engine")
    assert answer.error == "TensorRT-LLM sent 0 log-probabilities with 1 tokens"
    assert generate(rig.engine, ask(2, prompt(9), 3))[2].tokens == greedy(prompt(9), 3)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("guide", "field"),
    [
        (Guide("json"), "json"),
        (Guide("json_schema", '{"type": "null"}'), "json"),
        (Guide("regex", "[ab]+"), "regex"),
        (Guide("ebnf_grammar", 'root ::= "a"'), "grammar"),
    ],
)
def test_each_kind_of_guide_has_its_field(
    started: Start, version: str, guide: Guide, field: str
) -> None:
    rig = started(version)
    generate(rig.engine, ask(1, prompt(9), 60, (2, 3), guide=guide))
    given = {
        one.name: getattr(rig.sent.guided_decoding, one.name)
        for one in fields(rig.sent.guided_decoding)
    }
    assert {name for name, value in given.items() if value} == {field}
    assert rig.llm.arguments["skip_tokenizer_init"] is False
