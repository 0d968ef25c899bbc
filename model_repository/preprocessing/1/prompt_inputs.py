"""The tensors of a request to room 1, read row by row, and the checks that come first.

A tensor comes as a numpy array with a leading batch dimension.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]
# The clients' and the unary model's; room 2 reads them.
PARAMETERS = ("id", "named_errors", "cancel_id", "one_response")
# What upstream's clients and benchmarks send, and upstream's models never read.
WITHOUT_EFFECT = ("Streaming", "accumulate_tokens")
# Whether an error's message begins with "[CODE] ", for callers that do not see the code.
NAMED_ERRORS = "named_errors"
# What clients call them: the names of the ensemble.
CALLED = {
    "QUERY": "text_input",
    "MESSAGES": "messages",
    "TOOLS": "tools",
    "REQUEST_OUTPUT_LEN": "max_tokens",
    "STOP_WORDS_DICT": "stop_words",
    "BAD_WORDS_DICT": "bad_words",
    "EMBEDDING_BIAS_WORDS": "embedding_bias_words",
    "EMBEDDING_BIAS_WEIGHTS": "embedding_bias_weights",
    "END_ID": "end_id",
    "PAD_ID": "pad_id",
}
# Declared because clients send them; refused when they carry a value.
MEANINGLESS = {
    "DECODER_QUERY": ("decoder_text_input", "a Llama model has no encoder"),
    "PROMPT_TABLE_EXTRA_ID": ("prompt_table_extra_id", "this engine takes no prompt tables"),
    "IMAGE_BYTES": ("IMAGE_BYTES", "the model reads text alone"),
    "IMAGE_URL": ("IMAGE_URL", "the model reads text alone"),
    "IMAGES": ("IMAGES", "the model reads text alone"),
    "VIDEO_BYTES": ("VIDEO_BYTES", "the model reads text alone"),
}


class Refusal(Exception):
    """A request is not admitted; `code` is the name of Triton's error code."""

    code: ClassVar[str] = "INTERNAL"


class InvalidPrompt(Refusal):
    """The caller's mistake."""

    code = "INVALID_ARG"


class UnsupportedPrompt(Refusal):
    """Something that upstream's contract has and a Llama text model does not."""

    code = "UNSUPPORTED"


def wants_named_errors(parameters: str) -> bool:
    """Read before all else, so that every refusal can follow it."""
    return bool(parameters) and json.loads(parameters).get(NAMED_ERRORS) is True


def check_parameters(parameters: str) -> None:
    """Raise `InvalidPrompt` for request parameters that mean nothing.

    HTTP's `generate` makes a parameter of every JSON key that is no input, so a mis-spelled input
    would be swallowed.
    """
    given = json.loads(parameters) if parameters else {}
    if not isinstance(given.get(NAMED_ERRORS, True), bool):
        raise InvalidPrompt(
            f"{NAMED_ERRORS} is {given[NAMED_ERRORS]!r:.60} and must be true or false"
        )
    for name in given:
        if name not in (*PARAMETERS, *WITHOUT_EFFECT):
            raise InvalidPrompt(
                f"{name[:60]!r} must be an input that config.pbtxt lists, or the "
                f"request parameter {PARAMETERS[0]} or {PARAMETERS[1]}"
            )


def refuse_meaningless(arrays: Arrays) -> None:
    """Raises `UnsupportedPrompt` for the first input whose feature does not exist here."""
    for name, (called, why) in MEANINGLESS.items():
        if name in arrays and arrays[name].size and np.any(arrays[name].astype(bool)):
            raise UnsupportedPrompt(f"{called} carries a value and must carry none: {why}")


class PromptRow:
    """One row of a request's batch; an absent input gives None or nothing."""

    def __init__(self, arrays: Arrays, index: int) -> None:
        self._arrays = arrays
        self._index = index

    def data(self, name: str) -> bytes | None:
        """The bytes of a text input, undecoded."""
        value = self._one(name)
        return None if value is None else _as_bytes(value)

    def integer(self, name: str) -> int | None:
        """An integer."""
        value = self._one(name)
        return None if value is None else int(value)

    def numbers(self, name: str, most: int) -> list[float]:
        """All numbers of a list."""
        given = self._values(name)
        if given.size > most:
            raise InvalidPrompt(
                f"{CALLED[name]} holds {given.size} numbers and must hold at most {most}"
            )
        values: list[float] = given.tolist()
        return values

    def words(self, name: str, most: int, longest: int) -> list[str]:
        """The texts of a list, in order, with the empty ones, which mean none."""
        given = self._values(name)
        if given.size > most:
            raise InvalidPrompt(
                f"{CALLED[name]} holds {given.size} strings and must hold at most {most}"
            )
        values = [_as_bytes(value) for value in given.tolist()]
        for value in values:
            if len(value) > longest:
                raise InvalidPrompt(
                    f"{CALLED[name]} holds a string of {len(value)} bytes and must hold none "
                    f"above {longest}"
                )
        return [decode_text(value, CALLED[name]) for value in values]

    def _values(self, name: str) -> npt.NDArray[Any]:
        if name not in self._arrays:
            return np.empty(0)
        values: npt.NDArray[Any] = self._arrays[name][self._index].reshape(-1)
        return values

    def _one(self, name: str) -> Any:
        if name not in self._arrays:
            return None
        values = self._values(name)
        if values.size != 1:
            raise InvalidPrompt(f"{CALLED[name]} holds {values.size} values and must hold 1")
        return values.tolist()[0]


def decode_text(data: bytes, called: str) -> str:
    """UTF-8 text; raises `InvalidPrompt` that names the wrong byte."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidPrompt(
            f"{called} has the byte 0x{data[error.start]:02x} at {error.start} and must be UTF-8"
        ) from None


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
