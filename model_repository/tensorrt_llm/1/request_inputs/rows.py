"""What a request carries, read into plain values: its tensors row by row, and its parameters.

A tensor comes as a numpy array of one row, without the batch dimension. A refusal is one sentence
that names the input, its value and what it must be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]
LONGEST_VALUE = 60  # characters of a value that a refusal repeats
MOST_PADDED_IDS = 8  # times the ids allowed: a row of a batch is as long as the longest
MOST_GIVEN = 4096  # strings of a list, with the empty ones and the repeats


class Refusal(Exception):
    """A request is not admitted; `code` is the name of Triton's error code."""

    code: ClassVar[str] = "INTERNAL"


class InvalidRequest(Refusal):
    """The caller's mistake."""

    code = "INVALID_ARG"


class UnsupportedRequest(Refusal):
    """The request is right, but this engine's runtime cannot do it."""

    code = "UNSUPPORTED"


class EngineUnavailable(Refusal):
    """Not now: the queue is full or the engine restarts."""

    code = "UNAVAILABLE"


class Row:
    """Reads inputs by name; one that is absent gives the default."""

    def __init__(self, arrays: Arrays, sent: Mapping[str, str] | None = None) -> None:
        """`sent` has the names of inputs that came under another one, for refusals."""
        self._arrays = arrays
        self._sent = sent or {}

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def values(self, name: str) -> list[Any]:
        """All elements of an input, none if it is absent."""
        values: list[Any] = self._arrays[name].reshape(-1).tolist() if name in self else []
        return values

    def array(self, name: str) -> npt.NDArray[Any] | None:
        """The input as it came, None if it is absent."""
        return self._arrays.get(name)

    def integer(self, name: str, default: int, low: int, high: int, said: str = "") -> int:
        """An integer from `low` to `high`; `said` is the name in the refusal."""
        value = self.single(name, default, said)
        if not low <= value <= high:
            said = said or self._sent.get(name, name)
            raise InvalidRequest(f"{said} is {value} and must be {_span(low, high)}")
        return int(value)

    def number(
        self, name: str, default: float, low: float, high: float, above: bool = False
    ) -> float:
        """A finite number from `low` to `high`, or `above` low and up to high."""
        value = self.single(name, default)
        if not (math.isfinite(value) and low <= value <= high) or (above and value == low):
            span = f"above {low:g} and up to {high:g}" if above else f"{low:g} to {high:g}"
            raise InvalidRequest(f"{name} is {shown(value)} and must be {span}")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """A truth value."""
        return bool(self.single(name, default))

    def texts(self, name: str, most: int, longest: int) -> list[str]:
        """The texts of a list without the empty ones, because clients send [""] for none."""
        given = self._arrays[name].size if name in self else 0
        if given > MOST_GIVEN:  # before the cost of reading them
            raise InvalidRequest(f"{name} holds {given} strings and must hold at most {most}")
        values = [_bytes(value) for value in self.values(name)]
        values = list(dict.fromkeys(value for value in values if value))
        if len(values) > most:
            raise InvalidRequest(f"{name} holds {len(values)} strings and must hold at most {most}")
        for value in values:
            if len(value) > longest:
                raise InvalidRequest(
                    f"{name} holds a string of {len(value)} bytes and must hold none "
                    f"above {longest}"
                )
        return [_decoded(name, value) for value in values]

    def text(self, name: str) -> str:
        """One text; empty if absent."""
        return _decoded(name, _bytes(self.single(name, b"")))

    def single(self, name: str, default: Any, said: str = "") -> Any:
        """The only value of an input, whatever it is."""
        if name not in self:
            return default
        array = self._arrays[name]
        if array.size != 1:
            raise InvalidRequest(f"{said or name} holds {array.size} values and must hold 1")
        return array.reshape(-1).tolist()[0]


def read_word_list(
    name: str, array: npt.NDArray[Any] | None, vocab_size: int, most_words: int, most_ids: int
) -> tuple[tuple[int, ...], ...]:
    """The words of a list of token ids; raises `InvalidRequest`.

    Upstream's form is int32 [2, n]: row 0 holds the ids of all words, one after the other; row 1
    holds where each word ends, then -1 (tensorrtllm_backend, `_to_word_list_format`).
    """
    if array is None or not array.size:
        return ()
    if array.ndim != 2 or array.shape[0] != 2:
        raise InvalidRequest(f"{name} has the shape {list(array.shape)} and must have [2, n]")
    if array.shape[1] > MOST_PADDED_IDS * most_ids:  # before the cost of reading them
        raise InvalidRequest(
            f"{name} has the shape {list(array.shape)} and must hold at most {most_ids} ids"
        )
    ids, ends = array.tolist()
    words: list[tuple[int, ...]] = []
    start = 0
    for end in ends:
        if end < 0:
            break
        if not start <= end <= len(ids):
            raise InvalidRequest(
                f"{name} has the end {end} after {start} and must have one of {start} to {len(ids)}"
            )
        if end > start:
            words.append(tuple(ids[start:end]))
        start = end
    for token_id in (token_id for word in words for token_id in word):
        if not 0 <= token_id < vocab_size:
            raise InvalidRequest(
                f"{name} holds {token_id} and must hold ids from 0 to {vocab_size - 1}"
            )
    if len(words) > most_words or start > most_ids:
        raise InvalidRequest(
            f"{name} holds {len(words)} words of {start} ids "
            f"and must hold at most {most_words} words of {most_ids} ids together"
        )
    return tuple(dict.fromkeys(words))


def shorten(value: object) -> str:
    """`value` as a refusal repeats it."""
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def shown(value: float) -> str:
    """A float32 as a refusal repeats it: short, and never rounded to a value that would pass."""
    text = f"{value:g}"
    return text if np.float32(text) == np.float32(value) else f"{value:.9g}"


def carries_value(array: npt.NDArray[Any]) -> bool:
    """Whether anything in it is not zero, false or empty; clients send those for "none"."""
    return bool(array.size and np.any(array.astype(bool)))


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _decoded(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{name} has the byte 0x{value[error.start]:02x} at {error.start} and must be UTF-8"
        ) from None


def _span(low: int, high: int) -> str:
    return f"at least {low}" if high >= 2**31 - 1 else f"{low} to {high}"


# Inputs of upstream's contract that mean nothing here, declared because clients send them. One that
# carries a value (anything but zero, false or empty) is refused by name.
NO_ENCODER = "a Llama model has no encoder"
NO_PROMPT_TABLE = "this engine takes no prompt tables"
NO_DRAFT = "this engine takes no draft tokens from a request"
NO_LORA = "this engine has no LoRA adapters"
NO_RETENTION = "this engine evicts KV cache blocks by age alone"
NO_LOOKAHEAD = "this engine has no lookahead decoding"
NO_LOGITS = "this engine keeps no logits"
NO_DECAY = "this engine has a fixed top_p"

MEANINGLESS: dict[str, str] = {
    "encoder_input_features": NO_ENCODER,
    "encoder_output_lengths": NO_ENCODER,
    "cross_attention_mask": NO_ENCODER,
    "skip_cross_attn_blocks": NO_ENCODER,
    "mrope_rotary_cos_sin": "Llama has its own rotary embedding",
    "mrope_position_deltas": "Llama has its own rotary embedding",
    "prompt_embedding_table": NO_PROMPT_TABLE,
    "prompt_table_extra_ids": NO_PROMPT_TABLE,
    "prompt_vocab_size": NO_PROMPT_TABLE,
    "draft_input_ids": NO_DRAFT,
    "draft_logits": NO_DRAFT,
    "draft_acceptance_threshold": NO_DRAFT,
    "lora_task_id": NO_LORA,
    "lora_weights": NO_LORA,
    "lora_config": NO_LORA,
    "return_context_logits": NO_LOGITS,
    "return_generation_logits": NO_LOGITS,
    "runtime_top_p_min": NO_DECAY,
    "runtime_top_p_decay": NO_DECAY,
    "runtime_top_p_reset_ids": NO_DECAY,
    "context_phase_params": "this engine runs prefill and decode together",
    "retention_token_range_starts": NO_RETENTION,
    "retention_token_range_ends": NO_RETENTION,
    "retention_token_range_priorities": NO_RETENTION,
    "retention_token_range_durations_ms": NO_RETENTION,
    "retention_decode_priority": NO_RETENTION,
    "retention_decode_duration_ms": NO_RETENTION,
    "lookahead_window_size": NO_LOOKAHEAD,
    "lookahead_ngram_size": NO_LOOKAHEAD,
    "lookahead_verification_set_size": NO_LOOKAHEAD,
}


def refuse_meaningless(arrays: Arrays) -> None:
    """Raises `UnsupportedRequest` for the first input whose feature does not exist here."""
    for name, why in MEANINGLESS.items():
        array = arrays.get(name)
        if array is None or not array.size:
            continue
        if carries_value(array) or name == "lora_task_id":  # 0 is a task like any other
            raise UnsupportedRequest(f"{name} carries a value and must carry none: {why}")
    # A decoder prompt of one pad id is what preprocessing makes when there is none.
    decoder = arrays.get("decoder_input_ids")
    if decoder is not None and decoder.shape[-1] > 1:
        raise UnsupportedRequest(
            f"decoder_input_ids carries a prompt and must carry none: {NO_ENCODER}"
        )


def refuse_beams(row: Row) -> None:
    """Raises `UnsupportedRequest` for more beams than one, `InvalidRequest` for fewer."""
    beams = row.integer("beam_width", 1, -(2**31), 2**31 - 1)
    if beams < 1:
        raise InvalidRequest(f"beam_width is {beams} and must be 1")
    if beams > 1:
        raise UnsupportedRequest(
            f"beam_width is {beams} and must be 1: this engine has no beam search"
        )


# Of Triton's request parameters those with more ids by which `stop` finds the request: the client's
# (HTTP's `generate` has no other place for one in Triton 2.51), and the unary model's own.
IDS = ("id", "cancel_id")
# What upstream's clients and benchmarks send, and upstream's models never read.
WITHOUT_EFFECT = ("Streaming", "accumulate_tokens")
# Whether an error's message begins with "[CODE] ". The unary model sets it: from one model to
# another, and in a gRPC stream, Triton passes on the message of an error and not its code.
NAMED_ERRORS = "named_errors"
# The unary model's: one response for all sequences, and only when all of them are finished.
ONE_RESPONSE = "one_response"
# Room 3's: the key of the request that `stop` means, as it came with the request's responses.
KEY = "stream_key"


@dataclass(frozen=True)
class Parameters:
    """Triton's request parameters, read."""

    ids: frozenset[str] = frozenset()
    one_response: bool = False
    key: int | None = None


def wants_named_errors(parameters: str) -> bool:
    """Read before all else, so that every refusal can follow it."""
    return bool(parameters) and json.loads(parameters).get(NAMED_ERRORS) is True


def read_parameters(parameters: str) -> Parameters:
    """Raises `InvalidRequest`.

    HTTP's `generate` makes a parameter of every JSON key that is no input, so a mis-spelled one
    would be swallowed.
    """
    given = json.loads(parameters) if parameters else {}
    for name in WITHOUT_EFFECT:
        given.pop(name, None)
    _flag(given, NAMED_ERRORS)
    one_response = _flag(given, ONE_RESPONSE)
    key = given.pop(KEY, None)
    if not isinstance(key, int | None):
        raise InvalidRequest(f"{KEY} is {key!r:.60} and must be an integer")
    for name, value in given.items():
        if name not in IDS:
            raise InvalidRequest(
                f"{name[:60]!r} must be an input that config.pbtxt lists, or the "
                f"request parameter {IDS[0]} or {NAMED_ERRORS}"
            )
        if not isinstance(value, str):
            raise InvalidRequest(f"{name} is {value!r:.60} and must be a string")
    return Parameters(frozenset(given.values()), one_response, key)


def _flag(given: dict[str, object], name: str) -> bool:
    value = given.pop(name, False)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} is {value!r:.60} and must be true or false")
    return value
