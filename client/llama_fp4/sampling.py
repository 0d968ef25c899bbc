"""`SamplingParams`: the options of a request, checked before anything is sent.

Other libraries' values become Python's own, above all NumPy's, without importing it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from llama_fp4.errors import InvalidRequest, UnknownOption, must_be

OWN = (bool, int, float, str, type(None))
INT32_MAX = 2**31 - 1
UINT64_MAX = 2**64 - 1
SPELLED = {INT32_MAX: "2^31-1", UINT64_MAX: "2^64-1"}
GUIDES = ("json", "json_schema", "regex", "ebnf_grammar", "choice")
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
    """The options of `ensemble`, named as its tensors; None leaves an option to the server.

    model_repository/TENSORS.md describes each, and which runtime supports it. Scalars of NumPy
    count as Python's. Raises `InvalidRequest` with the field, its value and what it must be.
    """

    max_tokens: int | None = 128  # None: as many as the context has room for
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
    # A mapping (a schema) or a list (the strings of "choice") is sent as JSON.
    guided_decoding_guide: str | Mapping[str, Any] | Sequence[str] | None = None
    tools: str | Sequence[Mapping[str, Any]] | None = None  # in OpenAI's form; with messages only
    logprobs: int | None = None
    return_log_probs: bool | None = None
    return_perf_metrics: bool | None = None
    priority: int | None = None  # the lowest number starts first
    timeout_ms: int | None = None  # from admission on the server; the answer ends there

    def __post_init__(self) -> None:
        for name in NAMES:
            value = plain(getattr(self, name))
            if name in LISTS or name == "guided_decoding_guide":
                value = plain_list(value)
            object.__setattr__(self, name, value)
        for name, (low, high) in INTEGERS.items():
            _check_number(name, getattr(self, name), low, high, integer=True)
        for name, (least, most) in NUMBERS.items():
            _check_number(name, getattr(self, name), least, most)
        for name in FLAGS:
            value = getattr(self, name)
            if value is not None and not isinstance(value, bool):
                raise must_be(name, "True or False", value)
        for name in WORDS:
            _check_words(name, getattr(self, name))
        self._check_weights()
        self._check_guide()
        if self.tools is not None:
            _check_json("tools", self.tools)

    def _check_weights(self) -> None:
        name, weights = "embedding_bias_weights", self.embedding_bias_weights
        if isinstance(weights, (str, bytes)) or not isinstance(weights, Sequence):
            raise must_be(name, "a list of numbers", weights)
        for weight in weights:
            if weight is None:
                raise must_be(name, "a list of numbers", weights)
            _check_number(name, weight, -math.inf, math.inf)
        words = len(self.embedding_bias_words)
        if len(weights) != words:
            raise InvalidRequest(
                f"{name} must hold one number for each of the {words} embedding_bias_words, "
                f"not {len(weights)}"
            )

    def _check_guide(self) -> None:
        kind, guide = self.guided_decoding_guide_type, self.guided_decoding_guide
        if kind is not None and kind not in GUIDES:
            raise must_be("guided_decoding_guide_type", f"one of {', '.join(GUIDES)}", kind)
        if guide is None or isinstance(guide, str):
            return
        if not isinstance(guide, Mapping):
            if kind != "choice":
                needed = "choice where guided_decoding_guide is a list"
                raise must_be("guided_decoding_guide_type", needed, kind)
            _check_words("guided_decoding_guide", guide)
        _check_json("guided_decoding_guide", guide)

    def merged(self, options: Mapping[str, Any]) -> SamplingParams:
        """A copy with some options replaced. Raises `UnknownOption` for any other name."""
        if not options:
            return self
        for name in options:
            if name in SEVERAL:
                raise UnknownOption(f"{name} is not an option of this client, {ONE_ANSWER}")
            if name not in NAMES:
                raise UnknownOption(
                    f"the option must be one of {', '.join(NAMES)}, not {name!r:.60}"
                )
        return dataclasses.replace(self, **options)

    def given(self) -> dict[str, list[Any]]:
        """The values of each tensor to send, by name; at least one value each."""
        values: dict[str, list[Any]] = {}
        for name in NAMES:
            value = getattr(self, name)
            if value is None:
                continue
            if name in LISTS:
                if value:
                    values[name] = list(value)
            elif name in JSON and not isinstance(value, str):
                values[name] = [as_json(value)]
            else:
                values[name] = [value]
        return values


def merged_params(params: SamplingParams | None, options: Mapping[str, Any]) -> SamplingParams:
    """The options of a call. Raises `InvalidRequest`."""
    if params is None:
        params = SamplingParams()
    if not isinstance(params, SamplingParams):
        raise must_be("params", "a SamplingParams (or name the options: max_tokens=8)", params)
    return params.merged(options)


NAMES = tuple(field.name for field in fields(SamplingParams))
LISTS = (*WORDS, "embedding_bias_weights")
JSON = ("tools", "guided_decoding_guide")
ONE_ANSWER = (
    "whose stream is one answer: send several requests with seeds of their own, or call infer() or "
    "HTTP generate of tensorrt_llm_bls with num_return_sequences"
)
SEVERAL = ("num_return_sequences", "n", "best_of", "beam_width")  # answers to one request


def described(name: str) -> str:
    """What a field of INTEGERS or NUMBERS must be: "an integer of at least 1"."""
    if name in INTEGERS:
        return _number(*INTEGERS[name], integer=True)
    return _number(*NUMBERS.get(name, (-math.inf, math.inf)))


def _number(low: float, high: float, integer: bool = False) -> str:
    kind = "an integer" if integer else "a finite number"
    least, most = math.isfinite(low), math.isfinite(high) and high not in (INT32_MAX, UINT64_MAX)
    if least and most:
        return f"{kind} from {low:g} to {high:g}"
    if least:
        return f"{kind} of at least {low:g}"
    return f"{kind} of at most {high:g}" if most else kind


def _check_number(name: str, value: Any, low: float, high: float, integer: bool = False) -> None:
    if value is None:
        return
    fits = isinstance(value, int if integer else (int, float)) and not isinstance(value, bool)
    if fits and low <= value <= high and math.isfinite(value):
        return
    what = _number(low, high, integer)
    if fits and high in (INT32_MAX, UINT64_MAX) and value > high:
        what = f"an integer of at most {SPELLED[int(high)]}"
    raise must_be(name, what, value)


def _check_words(name: str, words: Any) -> None:
    if isinstance(words, (str, bytes)) or not isinstance(words, Sequence):
        raise must_be(name, "a list of strings", words)
    for word in words:
        if not isinstance(word, str):
            raise must_be(f"each of {name}", "a string", word)


def _check_json(name: str, value: Any) -> None:
    try:
        as_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise must_be(name, "what JSON can hold", value) from error


def plain(value: Any) -> Any:
    """The bool, int, float or str that `value` holds; any other value as it is.

    NumPy's scalars, and arrays or tensors without dimensions (torch, JAX), have `item()`.
    """
    if type(value) in OWN:
        return value
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return value


def plain_list(values: Any) -> Any:
    """A list, tuple or array of one dimension as a tuple of `plain` values; any other as it is."""
    if getattr(values, "ndim", None) == 1 and callable(getattr(values, "tolist", None)):
        values = values.tolist()
    return tuple(map(plain, values)) if isinstance(values, (list, tuple)) else values


def as_json(value: Any) -> str:
    """JSON. Raises TypeError, ValueError or RecursionError for what it cannot hold, such as NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_for_json)


def _for_json(value: Any) -> Any:
    found = plain(value)
    if type(found) not in OWN:
        raise TypeError(f"JSON cannot hold a {type(value).__name__}")
    return found
