"""`SamplingParams`: what is asked for beside the prompt, checked before anything is sent."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from llama_fp4.errors import InvalidRequest, UnknownOption

INT32_MAX = 2**31 - 1
UINT64_MAX = 2**64 - 1
GUIDES = ("json", "json_schema", "regex", "ebnf_grammar")
# name -> (lowest, highest), both allowed
INTEGERS: dict[str, tuple[int, int]] = {
    "max_tokens": (1, INT32_MAX),
    "min_tokens": (0, INT32_MAX),
    "end_id": (-1, INT32_MAX),
    "top_k": (0, INT32_MAX),
    "seed": (0, UINT64_MAX),
    "logprobs": (0, 20),
    "priority": (-100, 100),
    "timeout_ms": (0, INT32_MAX),
}
NUMBERS: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_p": (-math.inf, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.0, 100.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "length_penalty": (-math.inf, math.inf),
}
FLAGS = (
    "ignore_eos",
    "skip_special_tokens",
    "include_stop_str_in_output",
    "exclude_input_in_output",
    "return_log_probs",
    "return_perf_metrics",
)
WORDS = ("stop_words", "bad_words", "embedding_bias_words")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Every option of `ensemble`, by the names of its tensors; None leaves it to the server.

    What each does, and what a runtime honours of it, is in model_repository/README.md. Raises
    `InvalidRequest` with the field, its value and what is allowed.
    """

    max_tokens: int = 128
    min_tokens: int | None = None
    temperature: float | None = None  # 0: greedy
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    length_penalty: float | None = None
    stop_words: Sequence[str] = ()
    bad_words: Sequence[str] = ()
    include_stop_str_in_output: bool | None = None
    end_id: int | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    exclude_input_in_output: bool | None = None
    embedding_bias_words: Sequence[str] = ()
    embedding_bias_weights: Sequence[float] = ()  # one for each word
    guided_decoding_guide_type: str | None = None  # one of GUIDES
    guided_decoding_guide: str | Mapping[str, Any] | None = None  # a mapping is sent as JSON
    tools: str | Sequence[Mapping[str, Any]] | None = None  # in OpenAI's form; with messages only
    logprobs: int | None = None
    return_log_probs: bool | None = None
    return_perf_metrics: bool | None = None
    priority: int | None = None  # the lowest number starts first
    timeout_ms: int | None = None  # from admission; the text ends there

    def __post_init__(self) -> None:
        for name, (low, high) in INTEGERS.items():
            _check_number(name, getattr(self, name), int, low, high)
        for name, (least, most) in NUMBERS.items():
            _check_number(name, getattr(self, name), (int, float), least, most)
        for name in FLAGS:
            value = getattr(self, name)
            if value is not None and not isinstance(value, bool):
                raise InvalidRequest(f"{name} is {value!r:.60}, allowed are True and False")
        for name in WORDS:
            _check_words(name, getattr(self, name))
        weights = self.embedding_bias_weights
        if isinstance(weights, (str, bytes)) or not isinstance(weights, Sequence):
            raise InvalidRequest(
                f"embedding_bias_weights is {weights!r:.60}, allowed is a list of numbers"
            )
        for weight in weights:
            _check_number("embedding_bias_weights", weight, (int, float), -math.inf, math.inf)
        if len(weights) != len(self.embedding_bias_words):
            raise InvalidRequest(
                f"embedding_bias_weights has {len(weights)} numbers, allowed "
                f"is one for each of the {len(self.embedding_bias_words)} embedding_bias_words"
            )
        self._check_guide()
        if self.max_tokens is None:
            raise InvalidRequest("max_tokens is None, allowed are integers from 1")
        if self.tools is not None:
            _check_json("tools", self.tools)

    def _check_guide(self) -> None:
        kind, guide = self.guided_decoding_guide_type, self.guided_decoding_guide
        if kind is not None and kind not in GUIDES:
            raise InvalidRequest(
                f"guided_decoding_guide_type is {kind!r:.60}, allowed is one of {', '.join(GUIDES)}"
            )
        if guide is not None and not isinstance(guide, str):
            _check_json("guided_decoding_guide", guide)

    def merged(self, options: Mapping[str, Any]) -> SamplingParams:
        """These, with some replaced. Raises `UnknownOption` for a name that is none."""
        if not options:
            return self
        for name in options:
            if name == "num_return_sequences":
                raise UnknownOption(
                    "num_return_sequences is not offered here, allowed are several requests, "
                    "with seeds of their own: a stream is one answer"
                )
            if name not in NAMES:
                raise UnknownOption(f"{name!r:.60} is no option, allowed are {', '.join(NAMES)}")
        return dataclasses.replace(self, **options)

    def given(self) -> dict[str, list[Any]]:
        """What is to be sent, by name: the values of each tensor, never none."""
        values: dict[str, list[Any]] = {}
        for name in NAMES:
            value = getattr(self, name)
            if value is None:
                continue
            if name in LISTS:
                if value:
                    values[name] = list(value)
            elif name in JSON and not isinstance(value, str):
                values[name] = [json.dumps(value)]
            else:
                values[name] = [value]
        return values


NAMES = tuple(field.name for field in fields(SamplingParams))
LISTS = (*WORDS, "embedding_bias_weights")
JSON = ("tools", "guided_decoding_guide")


def _check_number(name: str, value: Any, kind: Any, low: float, high: float) -> None:
    if value is None:
        return
    fits = isinstance(value, kind) and not isinstance(value, bool)
    if fits and low <= value <= high and math.isfinite(value):
        return
    what = "integers" if kind is int else "numbers"
    bounds = " and ".join(
        f"{word} {bound}"
        for word, bound in (("at least", low), ("at most", high))
        if math.isfinite(bound)
    )
    raise InvalidRequest(f"{name} is {value!r:.60}, allowed are finite {what} {bounds}".rstrip())


def _check_words(name: str, words: Any) -> None:
    if isinstance(words, (str, bytes)) or not isinstance(words, Sequence):
        raise InvalidRequest(f"{name} is {words!r:.60}, allowed is a list of strings")
    for word in words:
        if not isinstance(word, str):
            raise InvalidRequest(f"{name} has {word!r:.60} in it, allowed are strings")


def _check_json(name: str, value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{name} is {value!r:.60}, allowed is what JSON holds") from error
