"""One row of a request's tensors, read into plain values.

A tensor comes as a numpy array of one row, without the batch dimension. A refusal is one sentence
that names the input, its value and what it must be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
