"""Room 2's inputs without Triton: what is refused by name, and how early."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from engine_config import EngineConfig
from request_inputs import generation
from request_inputs.generation import read_inputs
from request_inputs.guide_bounds import check_bounds
from request_inputs.rows import MEANINGLESS, InvalidRequest, UnsupportedRequest
from token_engine.interface import Guide, SamplingParams
from token_engine.registry import RUNTIMES, Runtime

from tests.support.generation_rows import VOCAB, able_config, arrays, read, word_list


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> EngineConfig:
    return able_config(monkeypatch)


NAN, INF = float("nan"), float("inf")
INVALID: list[tuple[dict[str, Any], str]] = [
    ({"request_output_len": 0}, "max_tokens is 0 and must be at least 1"),
    ({"request_output_len": 62}, "make 65 and must make at most 64"),
    ({"input_lengths": 4}, "input_lengths is 4 and must be 1 to 3"),
    ({"input_lengths": 0}, "input_lengths is 0"),
    (
        {"input_ids": np.array([[5, VOCAB]], np.int32)},
        "input_ids holds 100 and must hold ids from 0 to 99",
    ),
    ({"input_ids": np.array([[-1]], np.int32)}, "input_ids holds -1"),
    ({"input_ids": np.empty((1, 0), np.int32)}, "input_ids is empty"),
    ({"min_tokens": 11}, "min_tokens is 11 and must be 0 to 10"),
    ({"min_tokens": -1}, "min_tokens is -1"),
    ({"num_return_sequences": 0}, "num_return_sequences is 0 and must be 1 to 16"),
    ({"num_return_sequences": 17}, "num_return_sequences is 17"),
    ({"beam_width": 0}, "beam_width is 0 and must be 1$"),
    ({"min_length": -1}, "^min_length is -1 and must be 0 to 10"),
    ({"temperature": np.float32(100.00001)}, "temperature is 100.000008 and must be 0 to 100"),
    ({"runtime_top_p": np.float32(1.0000001)}, "top_p is 1.00000012 and must be above 0"),
    ({"repetition_penalty": -1.0}, "repetition_penalty is -1 and must be above 0 and up to 100"),
    ({"repetition_penalty": NAN}, "repetition_penalty is nan and must be above 0 and up to 100"),
    ({"stop_words": [b""] * 5000}, "stop_words holds 5000 strings and must hold at most 16"),
    (
        {"bad_words_list": np.zeros((1, 2, 100_000), np.int32)},
        r"bad_words_list has the shape \[2, 100000\] and must hold at most 2048 ids",
    ),
    ({"temperature": NAN}, "temperature is nan and must be 0 to 100"),
    ({"temperature": -0.5}, "temperature is -0.5"),
    ({"runtime_top_k": -1}, "top_k is -1 and must be at least 0"),
    ({"runtime_top_p": 1.5}, "top_p is 1.5 and must be above 0 and up to 1, or 0 and below"),
    ({"runtime_top_p": -INF}, "top_p is -inf"),
    ({"min_p": 1.5}, "min_p is 1.5 and must be 0 to 1"),
    ({"repetition_penalty": 0.0}, "repetition_penalty is 0 and must be above 0 and up to 100"),
    ({"presence_penalty": 2.5}, "presence_penalty is 2.5 and must be -2 to 2"),
    ({"frequency_penalty": INF}, "frequency_penalty is inf"),
    ({"len_penalty": NAN}, "length_penalty is nan and must be a finite number"),
    ({"beam_search_diversity_rate": -INF}, "beam_search_diversity_rate is -inf"),
    ({"end_id": -2}, "end_id is -2 and must be at least -1"),
    ({"pad_id": -2}, "pad_id is -2"),
    ({"logprobs": 21}, "logprobs is 21 and must be 0 to 20"),
    ({"priority": 101}, "priority is 101 and must be -100 to 100"),
    ({"timeout_ms": -1}, "timeout_ms is -1 and must be at least 0"),
    ({"temperature": [0.5, 0.5]}, "temperature holds 2 values and must hold 1"),
    ({"stop_words": b"a\xff"}, "stop_words has the byte 0xff at 1 and must be UTF-8"),
    (
        {"stop_words": [b"%d" % i for i in range(17)]},
        "stop_words holds 17 strings and must",
    ),
    (
        {"stop_words": b"x" * 257},
        "a string of 257 bytes and must hold none above 256",
    ),
    (
        {"bad_words_list": word_list([1, 2], [2, 1])},
        "bad_words_list has the end 1 after 2 and must have",
    ),
    ({"bad_words_list": word_list([1, 2], [3, -1])}, "bad_words_list has the end 3 after 0"),
    (
        {"bad_words_list": word_list([VOCAB], [1])},
        "bad_words_list holds 100 and must hold ids from 0 to 99",
    ),
    (
        {"bad_words_list": np.zeros((1, 3, 1), np.int32)},
        r"has the shape \[3, 1\] and must have \[2, n\]",
    ),
    (
        {"embedding_bias": np.ones((1, 3), np.float32)},
        "embedding_bias holds 3 values and must hold 100",
    ),
    ({"embedding_bias": np.full((1, VOCAB), NAN, np.float32)}, "embedding_bias holds NaN"),
    (
        {"embedding_bias": np.full((1, VOCAB), 2e30, np.float32)},
        r"embedding_bias holds 2e\+30 and must hold at most 1e\+30",
    ),
    ({"guided_decoding_guide": b"{}"}, "guided_decoding_guide_type"),
    ({"stop": np.zeros((2, 1), np.bool_)}, "stop has 2 rows and must have 1, as input_ids"),
]


@pytest.mark.parametrize(("given", "words"), INVALID, ids=[words for _, words in INVALID])
def test_wrong_values_are_refused_by_name(
    config: EngineConfig, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read(config, **given)


def test_a_size_is_refused_before_the_values_are_read(config: EngineConfig) -> None:
    """Lists of many million values would block every stream while they become Python objects."""
    huge = np.broadcast_to(np.int32(5), (1, 2**40))
    with pytest.raises(InvalidRequest, match="the prompt of 1099511627776 tokens and max_tokens"):
        read(config, input_ids=huge)
    with pytest.raises(InvalidRequest, match="stop_words holds 1099511627776 strings"):
        read(config, stop_words=np.broadcast_to(np.array(b"a", object), (1, 2**40)))
    with pytest.raises(InvalidRequest, match="temperature holds 1099511627776 values"):
        read(config, temperature=np.broadcast_to(np.float32(1), (1, 2**40)))
    with pytest.raises(InvalidRequest, match="top_p holds 1099511627776 values and must hold 1"):
        read(config, runtime_top_p=np.broadcast_to(np.float32(1), (1, 2**40)))
    assert read(config, input_ids=huge, input_lengths=3).prompt_ids == (5, 5, 5)


@pytest.mark.parametrize("name", ["input_ids", "request_output_len"])
def test_what_is_missing_is_named(config: EngineConfig, name: str) -> None:
    given = arrays()
    del given[name]
    with pytest.raises(InvalidRequest, match=f"{name} is missing, it is required"):
        read_inputs(given, config)


@pytest.mark.parametrize("name", MEANINGLESS)
def test_an_input_without_meaning_must_have_no_value(config: EngineConfig, name: str) -> None:
    with pytest.raises(UnsupportedRequest, match=f"{name} carries a value and must carry none"):
        read(config, **{name: 1})
    for empty in (np.empty((1, 0), np.int32), np.zeros((1, 1), np.int32)):
        if name == "lora_task_id" and empty.size:
            continue
        assert read(config, **{name: empty}, seed=1) == read(config, seed=1)


FEATURES: list[tuple[str, dict[str, Any], str]] = [
    ("min_p", {"min_p": 0.5}, "min_p is 0.5; with the none runtime it must be 0"),
    (
        "repetition_penalty",
        {"repetition_penalty": 2.0},
        "repetition_penalty is 2.0; .* must be 1",
    ),
    ("presence_penalty", {"presence_penalty": 1.0}, "presence_penalty is 1.0; .* must be 0"),
    ("frequency_penalty", {"frequency_penalty": 1.0}, "frequency_penalty is 1.0; .* must be 0"),
    ("min_tokens", {"min_tokens": 2}, "min_tokens is 2; .* must be 0"),
    (
        "bad_words",
        {"bad_words_list": word_list([1], [1])},
        "bad_words is given; .* does not support it",
    ),
    (
        "embedding_bias",
        {"embedding_bias": np.ones((1, VOCAB), np.float32)},
        "embedding_bias is given",
    ),
    ("logprobs", {"return_log_probs": True}, "return_log_probs is True; .* must be false"),
    ("top_logprobs", {"logprobs": 2}, "logprobs is 2; .* must be 0"),
    (
        "guided_decoding",
        {"guided_decoding_guide_type": b"json"},
        "guided_decoding_guide_type is json; .* does not support it",
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


def test_a_runtime_without_guides_does_not_check_them(
    config: EngineConfig, checked_guides: list[str]
) -> None:
    replay = dataclasses.replace(config, runtime="replay")
    guide = {"guided_decoding_guide_type": b"regex", "guided_decoding_guide": b"("}
    with pytest.raises(UnsupportedRequest, match="guided_decoding_guide_type is regex; the replay"):
        read(replay, **guide)
    with pytest.raises(UnsupportedRequest, match="guided_decoding_guide_type is missing; the repl"):
        read(replay, guided_decoding_guide=b"(")
    assert checked_guides == []


def test_each_guide_of_a_batch_is_checked_once_and_last(
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


# What OpenVINO's reader lacks and the libraries of the other runtimes have, or may get.
PATTERNS = ["a(?=b)", "(a)\\1", "\\bword"]
LIBRARY_RUNTIMES = ["vllm", "sglang", "tensorrt_llm"]


@pytest.mark.parametrize("runtime", LIBRARY_RUNTIMES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_librarys_runtime_takes_what_only_our_reader_lacks(
    config: EngineConfig, runtime: str, pattern: str
) -> None:
    given = {"guided_decoding_guide_type": b"regex", "guided_decoding_guide": pattern.encode()}
    guide = read(dataclasses.replace(config, runtime=runtime), **given).guide
    assert guide == Guide("regex", pattern)
    with pytest.raises(InvalidRequest, match=r"^guided_decoding_guide has "):
        read(dataclasses.replace(config, runtime="openvino"), **given)


@pytest.mark.parametrize("runtime", [*LIBRARY_RUNTIMES, "openvino"])
def test_no_runtime_gets_a_guide_beyond_the_bounds(config: EngineConfig, runtime: str) -> None:
    named = dataclasses.replace(config, runtime=runtime)
    for kind, text in (("yaml", "a"), ("regex", "(" * 65 + ")" * 65), ("json_schema", "[" * 129)):
        given = {
            "guided_decoding_guide_type": kind.encode(),
            "guided_decoding_guide": text.encode(),
        }
        with pytest.raises(InvalidRequest, match=r"^guided_decoding_guide"):
            read(named, **given)


@pytest.fixture
def checked_guides(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were checked so far."""
    texts: list[str] = []

    def check(guide: Guide) -> None:
        texts.append(guide.text)
        check_bounds(guide)

    generation._check_guide.cache_clear()
    monkeypatch.setattr(generation, "check_bounds", check)
    return texts


def test_a_guide_that_was_seen_before_is_not_checked_again(
    config: EngineConfig, checked_guides: list[str]
) -> None:
    given = {"guided_decoding_guide_type": b"regex", "guided_decoding_guide": b"[ab]+"}
    for _ in range(3):
        assert read(config, **given).guide == Guide("regex", "[ab]+")
    assert checked_guides == ["[ab]+"]


def test_beams_are_refused_by_name(config: EngineConfig) -> None:
    with pytest.raises(UnsupportedRequest, match="beam_width is 2 and must be 1"):
        read(config, beam_width=2)


def test_each_row_is_checked_for_beams(config: EngineConfig) -> None:
    given = {
        "input_ids": np.array([[5], [8]], np.int32),
        "request_output_len": np.array([[4], [5]], np.int32),
    }
    assert len(read_inputs(given | {"beam_width": np.array([[1], [1]], np.int32)}, config)) == 2
    with pytest.raises(UnsupportedRequest, match="beam_width is 2 and must be 1"):
        read_inputs(given | {"beam_width": np.array([[1], [2]], np.int32)}, config)
