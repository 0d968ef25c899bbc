"""Room 2's inputs without Triton: what reaches the engine, and what is refused by name."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from engine_config import EngineConfig, Limits, ModelFacts
from generation_inputs import GenerationInputs, read_inputs
from guide_check import check_guide
from output_text import StopWord
from refused_inputs import MEANINGLESS
from request_row import InvalidRequest, UnsupportedRequest
from token_engine.interface import SamplingParams
from token_engine.registry import RUNTIMES, Feature, Runtime

VOCAB = 100
ENDS = [97, 98]
Array = npt.NDArray[Any]


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> EngineConfig:
    """An engine whose runtime honours everything there is."""
    everything = frozenset[Feature](get_args(Feature))
    monkeypatch.setitem(RUNTIMES, "all", Runtime(RUNTIMES["replay"].load, everything))
    model = ModelFacts("model", VOCAB, 1, ENDS, "")
    return EngineConfig(1, "all", model, Limits(64, 4, 64, 4))


def arrays(**more: Any) -> dict[str, Array]:
    rows = {"input_ids": np.array([[5, 6, 7]], np.int32), "request_output_len": one(10)}
    return rows | {name: one(value) for name, value in more.items()}


def one(value: Any) -> Array:
    """A value as a tensor [1, n]: float32, int32, bool or bytes; an array as it is."""
    if isinstance(value, np.ndarray):
        return value
    values = value if isinstance(value, list) else [value]
    kinds = {float: np.float32, int: np.int64, bool: np.bool_}
    return np.array([values], kinds.get(type(values[0]), object))


def read(config: EngineConfig, **more: Any) -> GenerationInputs:
    (inputs,) = read_inputs(arrays(**more), config)
    return inputs


def test_nothing_said_is_upstreams_default(config: EngineConfig) -> None:
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


def test_seeds_are_drawn_afresh(config: EngineConfig) -> None:
    assert len({read(config, temperature=1.0).sampling.seed for _ in range(9)}) == 9


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
    with pytest.raises(InvalidRequest, match=f"{old} and {new} differ, allowed is one of them"):
        read(config, **{old: value, new: other})


def word_list(ids: list[int], ends: list[int]) -> Array:
    return np.array([[ids, ends]], np.int32)


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


NAN, INF = float("nan"), float("inf")
INVALID: list[tuple[dict[str, Any], str]] = [
    ({"request_output_len": 0}, "max_tokens is 0, allowed is at least 1"),
    ({"request_output_len": 62}, "make 65, allowed are 64 together"),
    ({"input_lengths": 4}, "input_lengths is 4, allowed is 1 to 3"),
    ({"input_lengths": 0}, "input_lengths is 0"),
    ({"input_ids": np.array([[5, VOCAB]], np.int32)}, "input_ids holds 100, allowed is 0 to 99"),
    ({"input_ids": np.array([[-1]], np.int32)}, "input_ids holds -1"),
    ({"input_ids": np.empty((1, 0), np.int32)}, "input_ids is empty"),
    ({"min_tokens": 11}, "min_tokens is 11, allowed is 0 to 10"),
    ({"min_tokens": -1}, "min_tokens is -1"),
    ({"num_return_sequences": 0}, "num_return_sequences is 0, allowed is 1 to 16"),
    ({"num_return_sequences": 17}, "num_return_sequences is 17"),
    ({"beam_width": 0}, "beam_width is 0, allowed is 1$"),
    ({"min_length": -1}, "^min_length is -1, allowed is 0 to 10"),
    ({"temperature": np.float32(100.00001)}, "temperature is 100.000008, allowed is 0 to 100"),
    ({"runtime_top_p": np.float32(1.0000001)}, "top_p is 1.00000012, allowed is above 0"),
    ({"repetition_penalty": -1.0}, "repetition_penalty is -1, allowed is above 0 and up to 100"),
    ({"repetition_penalty": NAN}, "repetition_penalty is nan, allowed is above 0 and up to 100"),
    ({"stop_words": [b""] * 5000}, "stop_words holds 5000 strings, allowed are 16"),
    (
        {"bad_words_list": np.zeros((1, 2, 100_000), np.int32)},
        r"bad_words_list has the shape \[2, 100000\], allowed are 2048 ids in all",
    ),
    ({"temperature": NAN}, "temperature is nan, allowed is 0 to 100"),
    ({"temperature": -0.5}, "temperature is -0.5"),
    ({"runtime_top_k": -1}, "top_k is -1, allowed is at least 0"),
    ({"runtime_top_p": 1.5}, "top_p is 1.5, allowed is above 0 and up to 1, or 0 and below"),
    ({"runtime_top_p": -INF}, "top_p is -inf"),
    ({"min_p": 1.5}, "min_p is 1.5, allowed is 0 to 1"),
    ({"repetition_penalty": 0.0}, "repetition_penalty is 0, allowed is above 0 and up to 100"),
    ({"presence_penalty": 2.5}, "presence_penalty is 2.5, allowed is -2 to 2"),
    ({"frequency_penalty": INF}, "frequency_penalty is inf"),
    ({"len_penalty": NAN}, "length_penalty is nan, allowed are finite numbers"),
    ({"beam_search_diversity_rate": -INF}, "beam_search_diversity_rate is -inf"),
    ({"end_id": -2}, "end_id is -2, allowed is at least -1"),
    ({"pad_id": -2}, "pad_id is -2"),
    ({"logprobs": 21}, "logprobs is 21, allowed is 0 to 20"),
    ({"priority": 101}, "priority is 101, allowed is -100 to 100"),
    ({"timeout_ms": -1}, "timeout_ms is -1, allowed is at least 0"),
    ({"temperature": [0.5, 0.5]}, "temperature holds 2 values, allowed is 1"),
    ({"stop_words": b"a\xff"}, "stop_words has the byte 0xff at 1, allowed is UTF-8"),
    ({"stop_words": [b"%d" % i for i in range(17)]}, "stop_words holds 17 strings, allowed are 16"),
    ({"stop_words": b"x" * 257}, "stop_words holds a string of 257 bytes, allowed are 256"),
    ({"bad_words_list": word_list([1, 2], [2, 1])}, "bad_words_list has the end 1 after 2"),
    ({"bad_words_list": word_list([1, 2], [3, -1])}, "bad_words_list has the end 3 after 0"),
    ({"bad_words_list": word_list([VOCAB], [1])}, "bad_words_list holds 100, allowed is 0 to 99"),
    (
        {"bad_words_list": np.zeros((1, 3, 1), np.int32)},
        r"has the shape \[3, 1\], allowed is \[2, n\]",
    ),
    (
        {"embedding_bias": np.ones((1, 3), np.float32)},
        "embedding_bias holds 3 values, allowed are 100",
    ),
    ({"embedding_bias": np.full((1, VOCAB), NAN, np.float32)}, "embedding_bias holds NaN"),
    ({"guided_decoding_guide": b"{}"}, "guided_decoding_guide_type"),
    ({"stop": np.zeros((2, 1), np.bool_)}, "stop has 2 rows, allowed are 1 as input_ids"),
]


@pytest.mark.parametrize(("given", "words"), INVALID, ids=[words for _, words in INVALID])
def test_wrong_values_are_refused_by_name(
    config: EngineConfig, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read(config, **given)


def test_a_size_is_refused_before_the_values_are_read(config: EngineConfig) -> None:
    """Lists of many million values would hold up every stream while they become Python objects."""
    huge = np.broadcast_to(np.int32(5), (1, 2**40))
    with pytest.raises(InvalidRequest, match="the prompt of 1099511627776 tokens and max_tokens"):
        read(config, input_ids=huge)
    with pytest.raises(InvalidRequest, match="stop_words holds 1099511627776 strings"):
        read(config, stop_words=np.broadcast_to(np.array(b"a", object), (1, 2**40)))
    with pytest.raises(InvalidRequest, match="temperature holds 1099511627776 values"):
        read(config, temperature=np.broadcast_to(np.float32(1), (1, 2**40)))
    with pytest.raises(InvalidRequest, match="top_p holds 1099511627776 values, allowed is 1"):
        read(config, runtime_top_p=np.broadcast_to(np.float32(1), (1, 2**40)))
    assert read(config, input_ids=huge, input_lengths=3).prompt_ids == (5, 5, 5)


@pytest.mark.parametrize("name", ["input_ids", "request_output_len"])
def test_what_is_missing_is_named(config: EngineConfig, name: str) -> None:
    given = arrays()
    del given[name]
    with pytest.raises(InvalidRequest, match=f"{name} is missing, it is required"):
        read_inputs(given, config)


@pytest.mark.parametrize("name", MEANINGLESS)
def test_the_meaningless_is_refused_when_it_carries_a_value(
    config: EngineConfig, name: str
) -> None:
    with pytest.raises(UnsupportedRequest, match=f"{name} carries a value, allowed is none"):
        read(config, **{name: 1})
    for empty in (np.empty((1, 0), np.int32), np.zeros((1, 1), np.int32)):
        if name == "lora_task_id" and empty.size:
            continue
        assert read(config, **{name: empty}, seed=1) == read(config, seed=1)


FEATURES: list[tuple[str, dict[str, Any], str]] = [
    ("min_p", {"min_p": 0.5}, "min_p is 0.5, the none runtime allows only 0"),
    ("repetition_penalty", {"repetition_penalty": 2.0}, "repetition_penalty is 2.0, .* only 1"),
    ("presence_penalty", {"presence_penalty": 1.0}, "presence_penalty is 1.0, .* only 0"),
    ("frequency_penalty", {"frequency_penalty": 1.0}, "frequency_penalty is 1.0, .* only 0"),
    ("min_tokens", {"min_tokens": 2}, "min_tokens is 2, .* only 0"),
    ("bad_words", {"bad_words_list": word_list([1], [1])}, "bad_words is 1 token seq.* only none"),
    (
        "embedding_bias",
        {"embedding_bias": np.ones((1, VOCAB), np.float32)},
        "embedding_bias is 100",
    ),
    ("logprobs", {"return_log_probs": True}, "return_log_probs is True, .* only false"),
    ("top_logprobs", {"logprobs": 2}, "logprobs is 2, .* only 0"),
    (
        "guided_decoding",
        {"guided_decoding_guide_type": b"json"},
        "guided_decoding_guide_type is json, .* only none",
    ),
]
NEUTRAL = {
    "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
    "min_tokens": 0, "beam_width": 1, "num_return_sequences": 1, "return_log_probs": False,
    "len_penalty": 1.0, "guided_decoding_guide_type": b"", "guided_decoding_guide": b"",
}  # fmt: skip


@pytest.mark.parametrize(("feature", "given", "words"), FEATURES, ids=[f[0] for f in FEATURES])
def test_what_a_runtime_lacks_is_refused_by_name(
    config: EngineConfig,
    monkeypatch: pytest.MonkeyPatch,
    feature: str,
    given: dict[str, Any],
    words: str,
) -> None:
    read(config, **given)
    monkeypatch.setitem(RUNTIMES, "none", Runtime(RUNTIMES["replay"].load, frozenset()))
    without = dataclasses.replace(config, runtime="none")
    with pytest.raises(UnsupportedRequest, match=words):
        read(without, **given)
    assert read(without, **NEUTRAL).sampling == SamplingParams()


def test_a_guide_is_not_looked_at_where_the_runtime_has_none(
    config: EngineConfig, checked_guides: list[str]
) -> None:
    replay = dataclasses.replace(config, runtime="replay")
    guide = {"guided_decoding_guide_type": b"regex", "guided_decoding_guide": b"("}
    with pytest.raises(UnsupportedRequest, match="guided_decoding_guide_type is regex, the replay"):
        read(replay, **guide)
    with pytest.raises(UnsupportedRequest, match="guided_decoding_guide_type is missing, the repl"):
        read(replay, guided_decoding_guide=b"(")
    assert checked_guides == []


def test_each_guide_of_a_batch_is_looked_at_once_and_last(
    config: EngineConfig, checked_guides: list[str]
) -> None:
    texts = [b"a", b"b", b"a", b"a", b"(", b"b"]
    given = {
        "input_ids": np.full((6, 1), 5, np.int32),
        "request_output_len": np.full((6, 1), 4, np.int32),
        "guided_decoding_guide_type": np.array([[b"regex"]] * 6, object),
        "guided_decoding_guide": np.array([[text] for text in texts], object),
    }
    with pytest.raises(InvalidRequest, match=r"guided_decoding_guide has a '\(' without '\)'"):
        read_inputs(given, config)
    assert checked_guides == ["a", "b", "("]
    given["request_output_len"][5] = 0
    with pytest.raises(InvalidRequest, match="max_tokens is 0"):
        read_inputs(given, config)
    assert checked_guides == ["a", "b", "("]


@pytest.fixture
def checked_guides(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were checked, so far."""
    texts: list[str] = []

    def check(kind: str, text: str) -> None:
        texts.append(text)
        check_guide(kind, text)

    monkeypatch.setattr("generation_inputs.check_guide", check)
    return texts


def test_beams_are_refused_by_name(config: EngineConfig) -> None:
    with pytest.raises(UnsupportedRequest, match="beam_width is 2, allowed is 1"):
        read(config, beam_width=2)


def test_each_row_is_looked_at_for_beams(config: EngineConfig) -> None:
    given = {
        "input_ids": np.array([[5], [8]], np.int32),
        "request_output_len": np.array([[4], [5]], np.int32),
    }
    assert len(read_inputs(given | {"beam_width": np.array([[1], [1]], np.int32)}, config)) == 2
    with pytest.raises(UnsupportedRequest, match="beam_width is 2, allowed is 1"):
        read_inputs(given | {"beam_width": np.array([[1], [2]], np.int32)}, config)


def test_the_echo_that_a_deployment_chose_yields_to_the_request(config: EngineConfig) -> None:
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
