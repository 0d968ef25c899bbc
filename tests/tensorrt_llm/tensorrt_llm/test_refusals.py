"""What the TensorRT-LLM runtime refuses because a version or a sampler of the library lacks it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from token_engine.interface import Guide, SamplingParams, UnsupportedParameter
from token_engine.tensorrt_llm_runtime.sampling import refuse_unsupported
from token_engine.tensorrt_llm_runtime.versions import CPP_SAMPLER, TORCH_SAMPLER

from tests.fakes.tensorrt_llm import fake_package
from tests.fakes.tensorrt_llm.fake_sampler import model_logits
from tests.fakes.tensorrt_llm.rig import GREEDY, SAMPLED, TORCH, VOCAB, Start, ask, greedy, prompt
from tests.support.engine_answers import generate

NGRAM = {"decoding_type": "NGram"}
BOTH = "no_topk_no_topp"
REFUSALS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {"version": "1_0"},
        {"sampling": replace(GREEDY, presence_penalty=0.5)},
        "presence_penalty is 0.5; with the tensorrt_llm runtime it must be 0",
    ),
    (
        {"version": "1_0"},
        {"sampling": replace(SAMPLED, frequency_penalty=-1)},
        "frequency_penalty is -1",
    ),
    ({"version": "1_2"}, {"logprobs": 1}, "logprobs is 1; .* it must be 0, the chosen token's"),
    (
        {"version": "1_2"},
        {"logprobs": 0, "sampling": replace(SAMPLED, temperature=0.5)},
        "return_log_probs is true; .* it must be false with temperature 0.5",
    ),
    (
        {"version": "head"},
        {"logprobs": 0, "sampling": replace(GREEDY, repetition_penalty=2)},
        "false with repetition_penalty",
    ),
    (
        {"version": "head"},
        {"logprobs": 0, "sampling": replace(GREEDY, presence_penalty=1)},
        "false with presence_penalty",
    ),
    (
        {"version": "head"},
        {"logprobs": 0, "sampling": replace(GREEDY, frequency_penalty=1)},
        "false with frequency_penalty",
    ),
    ({"version": "head"}, {"logprobs": 0, "token_bias": ((9, 1.0),)}, "false with embedding_bias"),
    ({"version": "head"}, {"logprobs": 0, "bad_words": ((9,),)}, "false with bad_words"),
    ({"version": "head"}, {"logprobs": 0, "min_tokens": 2, "end_ids": (2,)}, "with min_tokens"),
    ({"version": "head"}, {"logprobs": 0, "guide": Guide("json"), "end_ids": (2,)}, "with a guide"),
    (
        TORCH,
        {"sampling": replace(SAMPLED, min_p=0.1)},
        r"min_p is 0.1; .* it must be 0 \(TorchSampler\)",
    ),
    (
        TORCH,
        {"sampling": replace(SAMPLED, seed=5)},
        r"seed is 5; .* must be none, as equal seeds would not draw equal tokens \(TorchSampler\)",
    ),
    (
        {"version": "head"},
        {"sampling": replace(SAMPLED, seed=0)},
        r"seed is 0; .* \(TorchSampler\)",
    ),
    (TORCH, {"sampling": replace(GREEDY, repetition_penalty=1.2)}, "repetition_penalty is 1.2"),
    (TORCH, {"sampling": replace(GREEDY, presence_penalty=1.2)}, "presence_penalty is 1.2"),
    (TORCH, {"bad_words": ((9,),)}, "bad_words is given; .* does not support it"),
    (TORCH, {"logprobs": 3, "sampling": SAMPLED}, "return_log_probs is true; .* with sampling"),
    (
        {"guided_decoding_backend": ""},
        {"guide": Guide("json"), "end_ids": (2,)},
        "guided_decoding_guide_type is json",
    ),
    (
        {"guided_decoding_backend": "llguidance"},
        {"guide": Guide("ebnf_grammar", 'root ::= "a"'), "end_ids": (2,)},
        "guided_decoding_guide_type is ebnf_grammar; .* must be json, json_schema",
    ),
    ({}, {"guide": Guide("json")}, "ignore_eos is true; .* it must be false with a guide"),
    ({}, {"guide": Guide("json"), "end_ids": (2,), "min_tokens": 3}, "min_tokens is 3; .* 0 with"),
    ({"backend": "tensorrt"}, {"logprobs": 0}, "return_log_probs is true; .* TensorRT engine"),
    ({"speculative_config": {"decoding_type": "NGram"}}, {"sampling": SAMPLED}, "temperature is 1"),
    (
        {"speculative_config": {"decoding_type": "NGram"}},
        {"min_tokens": 2, "end_ids": (2,)},
        "min_tokens is 2",
    ),
    ({"speculative_config": {"decoding_type": "NGram"}}, {"logprobs": 0}, "return_log_probs is"),
    (
        {"version": "head", "speculative_config": {**NGRAM, "advanced_sampling_mode": "no_topk"}},
        {"sampling": replace(SAMPLED, top_k=2)},
        r"top_k is 2; .* it must be 0 \(speculative decoding, advanced_sampling_mode no_topk\)",
    ),
    (
        {"version": "head", "speculative_config": {**NGRAM, "advanced_sampling_mode": "no_topp"}},
        {"sampling": replace(SAMPLED, top_p=0.5)},
        "top_p is 0.5; .* it must be 1 .*no_topp",
    ),
    (
        {"version": "head", "speculative_config": {**NGRAM, "advanced_sampling_mode": BOTH}},
        {"sampling": replace(SAMPLED, top_p=0.5)},
        "top_p is 0.5; .* it must be 1",
    ),
    (
        {"version": "head", "speculative_config": {**NGRAM, "advanced_sampling_mode": BOTH}},
        {"sampling": replace(SAMPLED, top_k=5)},
        "top_k is 5; .* it must be 0",
    ),
    (
        {"version": "head", "speculative_config": {**NGRAM, "advanced_sampling_mode": "full"}},
        {"sampling": replace(SAMPLED, min_p=0.5)},
        r"min_p is 0.5; .* it must be 0 \(speculative decoding\)",
    ),
    # In versions where drafts are sampled only if told to, one kind of them has the modes too.
    (
        {
            "speculative_config": {
                **NGRAM,
                "advanced_sampling_mode": "no_topk",
                "allow_advanced_sampling": True,
            }
        },
        {"sampling": replace(SAMPLED, top_k=2)},
        "top_k is 2; .* it must be 0 .*no_topk",
    ),
]


@pytest.mark.parametrize(("settings", "asked", "expected"), REFUSALS, ids=str)
def test_what_is_not_honoured_is_refused(
    started: Start, settings: dict[str, Any], asked: dict[str, Any], expected: str
) -> None:
    rig = started(**settings)
    with pytest.raises(UnsupportedParameter, match=expected):
        rig.engine.submit(ask(1, prompt(4), 5, **asked))
    assert not rig.engine.has_work
    assert rig.llm.requests == []


@pytest.mark.parametrize(
    ("mode", "sampling"),
    [
        ("full", replace(SAMPLED, temperature=3.0, top_k=2)),
        ("no_topp", replace(SAMPLED, temperature=3.0, top_k=2)),
        ("no_topk", replace(SAMPLED, temperature=3.0, top_p=1e-3)),
        ("fused", replace(SAMPLED, temperature=3.0, top_k=2)),
        ("fused", replace(SAMPLED, temperature=3.0, min_p=1.0)),
    ],
)
def test_drafts_are_sampled_with_the_requests_options(
    started: Start, mode: str, sampling: SamplingParams
) -> None:
    """Whatever `allow_advanced_sampling` says, which newer versions do not read."""
    drafts = {**NGRAM, "advanced_sampling_mode": mode, "allow_advanced_sampling": False}
    engine = started("head", speculative_config=drafts).engine
    best = np.argsort(-model_logits(prompt(4), VOCAB))[:2].tolist()
    answers = generate(engine, *(ask(key, prompt(4), 1, (), sampling) for key in range(40)))
    drawn = {answer.tokens[0] for answer in answers.values()}
    assert drawn == set(best if sampling.top_k else best[:1])


@pytest.mark.parametrize(
    ("top_k", "fits"), [(1024, True), (1025, False), (128_255, False), (128_256, True)]
)
def test_top_k_above_the_samplers_limit_is_refused(top_k: int, fits: bool) -> None:
    """The C++ sampler silently cuts it to 1024; a whole vocabulary is no limit."""
    request = ask(1, prompt(4), 5, (), replace(SAMPLED, top_k=top_k))
    refuse_unsupported(request, TORCH_SAMPLER, "xgrammar", 128_256)
    if fits:
        refuse_unsupported(request, CPP_SAMPLER, "xgrammar", 128_256)
    else:
        with pytest.raises(UnsupportedParameter, match=f"top_k is {top_k}; .* 0 to 1024"):
            refuse_unsupported(request, CPP_SAMPLER, "xgrammar", 128_256)


def test_bad_sequences_are_refused_where_the_library_keeps_them_elsewhere(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = fake_package.make_sampling_params

    def moved(signatures: dict[str, Any]) -> Any:
        params = make(signatures)
        params._get_bad_words = lambda self: [[one] for one in self.bad_token_ids or []]
        return params

    monkeypatch.setattr(fake_package, "make_sampling_params", moved)
    engine = started().engine
    with pytest.raises(
        UnsupportedParameter, match="bad_words is of several tokens a word, alone or after a space"
    ):
        engine.submit(ask(1, prompt(4), 5, bad_words=((5, 6),)))
    first = greedy(prompt(4), 1)[0]
    answer = generate(engine, ask(2, prompt(4), 5, bad_words=((first,),)))[2]
    assert answer.tokens[0] != first
