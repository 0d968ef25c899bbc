"""Room 2's inputs without Triton: what reaches the engine."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from engine_config import EngineConfig
from request_inputs.generation import read_inputs, with_seed_of
from request_inputs.rows import InvalidRequest
from response_outputs.text import StopWord
from token_engine.interface import SamplingParams

from tests.support.generation_rows import ENDS, VOCAB, able_config, arrays, read, word_list


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> EngineConfig:
    return able_config(monkeypatch)


def test_defaults_are_upstreams(config: EngineConfig) -> None:
    inputs = read(config)
    assert inputs.prompt_ids == (5, 6, 7)
    assert inputs.sampling == SamplingParams()
    assert inputs.end_ids(ENDS) == (97, 98)
    assert (inputs.max_tokens, inputs.min_tokens, inputs.num_sequences) == (10, 0, 1)
    assert (inputs.logprobs, inputs.bad_words, inputs.guide) == (None, (), None)
    options = inputs.output
    assert (options.streaming, options.echo_prompt, options.include_stop) == (False,) * 3
    assert options.skip_special_tokens


@pytest.mark.parametrize(
    ("given", "sampling"),
    [
        ({"temperature": 0.5}, SamplingParams(False, 0.5)),
        ({"runtime_top_k": 5}, SamplingParams(False, top_k=5)),
        ({"runtime_top_p": 0.5}, SamplingParams(False, top_p=0.5)),
        ({"min_p": 0.25}, SamplingParams(False, min_p=0.25)),
        ({"runtime_top_p": 1.0}, SamplingParams(False)),
        ({"temperature": 0.5, "runtime_top_p": 0.0}, SamplingParams(False, 0.5)),
        ({"runtime_top_p": -1.0}, SamplingParams()),
        ({"temperature": 0.0, "runtime_top_p": 0.5}, SamplingParams()),
        ({"temperature": 2.0, "runtime_top_k": 1}, SamplingParams()),
        ({"repetition_penalty": 1.5}, SamplingParams(repetition_penalty=1.5)),
        (
            {"presence_penalty": 0.5, "frequency_penalty": -2.0},
            SamplingParams(presence_penalty=0.5, frequency_penalty=-2.0),
        ),
    ],
)
def test_sampling(config: EngineConfig, given: dict[str, Any], sampling: SamplingParams) -> None:
    seed = 2**64 - 1
    seeded = read(config, **given, seed=np.array([[seed]], np.uint64)).sampling
    assert seeded == (sampling if sampling.greedy else dataclasses.replace(sampling, seed=seed))


def test_no_seed_is_made_up(config: EngineConfig) -> None:
    """A runtime that cannot honour seeds must know whether the client gave one."""
    sampling = read(config, temperature=1.0).sampling
    assert sampling.seed is None
    assert with_seed_of(sampling, 3).seed is None
    assert len({sampling.seed_or_fresh() for _ in range(9)}) == 9
    assert with_seed_of(read(config, temperature=1.0, seed=5).sampling, 3).seed_or_fresh() == 8


@pytest.mark.parametrize(
    ("given", "ends"),
    [
        ({}, (97, 98)),
        ({"end_id": 50}, (97, 98, 50)),
        ({"end_id": 98}, (97, 98)),
        ({"end_id": -1}, ()),
        ({"end_id": VOCAB}, ()),
        ({"ignore_eos": True}, ()),
        ({"ignore_eos": True, "end_id": 50}, ()),
    ],
)
def test_end_ids(config: EngineConfig, given: dict[str, Any], ends: tuple[int, ...]) -> None:
    assert read(config, **given).end_ids(ENDS) == ends


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("min_length", "min_tokens", 3),
        ("random_seed", "seed", 3),
        ("return_kv_cache_reuse_stats", "return_perf_metrics", True),
    ],
)
def test_both_spellings(config: EngineConfig, old: str, new: str, value: Any) -> None:
    sampled = {"temperature": 1.0, "seed": 3}  # a fixed seed, unless it is the input in question
    newly = read(config, **{**sampled, new: value})
    assert newly != read(config, temperature=1.0, seed=5)
    only_old = {name: given for name, given in sampled.items() if name != new} | {old: value}
    assert read(config, **only_old) == newly
    assert read(config, **{**sampled, old: value, new: value}) == newly
    other = (not value) if isinstance(value, bool) else value + 1
    with pytest.raises(InvalidRequest, match=f"{old} and {new} differ and must be equal"):
        read(config, **{old: value, new: other})


def test_word_lists(config: EngineConfig) -> None:
    inputs = read(
        config,
        bad_words_list=word_list([1, 2, 3, 0], [2, 3, -1, -1]),
        stop_words_list=word_list([7, 8], [2, -1]),
        stop_words=[b"", b"end", b"end"],
    )
    assert inputs.bad_words == ((1, 2), (3,))
    assert inputs.stop_words == (StopWord(text="end"), StopWord(ids=(7, 8)))


def test_bias_and_logprobs(config: EngineConfig) -> None:
    bias = np.zeros((1, VOCAB), np.float32)
    bias[0, 3], bias[0, 9] = 1.5, -2
    inputs = read(config, embedding_bias=bias, logprobs=4, return_log_probs=True)
    assert inputs.token_bias == ((3, 1.5), (9, -2.0))
    assert inputs.logprobs == 4
    assert read(config, return_log_probs=True).logprobs == 0
    assert read(config, embedding_bias=np.zeros((1, VOCAB), np.float32)).token_bias == ()
    # A ban, as clients write it: a runtime's division by the temperature must not overflow.
    bias[0, 7] = np.finfo(np.float32).min
    assert dict(read(config, embedding_bias=bias).token_bias)[7] == -1e30


def test_the_request_overrides_the_deployments_echo(config: EngineConfig) -> None:
    def echoes(deployment: bool, **given: Any) -> bool:
        return read_inputs(arrays(**given), config, deployment)[0].output.echo_prompt

    assert [echoes(False), echoes(True)] == [False, True]
    assert not echoes(True, exclude_input_in_output=True)
    assert echoes(False, exclude_input_in_output=False)


def test_a_batch_is_read_row_by_row(config: EngineConfig) -> None:
    given = {
        "input_ids": np.array([[5, 6, 7], [8, 9, 0]], np.int32),
        "input_lengths": np.array([[3], [2]], np.int32),
        "request_output_len": np.array([[4], [5]], np.int32),
        "runtime_top_k": np.array([[1], [7]], np.int32),
    }
    first, second = read_inputs(given, config)
    assert (first.prompt_ids, second.prompt_ids) == ((5, 6, 7), (8, 9))
    assert (first.max_tokens, second.max_tokens) == (4, 5)
    assert (first.sampling.greedy, second.sampling.top_k) == (True, 7)
