"""How the unary model turns a request into the ensemble's, and reads the errors that come back.

It knows nothing of tokens, text or Triton.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Named = Mapping[str, npt.NDArray[Any]]
# Meaningless for a text model without a draft; declared because clients send them.
MEANINGLESS = {
    "image_input": "the model reads text alone",
    "image_bytes_input": "the model reads text alone",
    "image_url_input": "the model reads text alone",
    "video_bytes_input": "the model reads text alone",
    "num_draft_tokens": "there is no draft model",
    "use_draft_logits": "there is no draft model",
}

# How the rooms begin a message. Triton's own may have anything in brackets, such as a request id.
CODE = re.compile(
    r"\[(INVALID_ARG|UNSUPPORTED|UNAVAILABLE|NOT_FOUND|CANCELLED|INTERNAL)\] (.*)", re.DOTALL
)
# Words of Triton's own messages that mean: not now.
STOPPING = ("Server not ready", "Server is stopping", "is not ready", "no available versions")
# What a client's request parameters may be; see tensorrt_llm/1/request_inputs/rows.py.
PARAMETERS = ("id", "named_errors", "Streaming", "accumulate_tokens")


class Refusal(Exception):
    """A request is not admitted; `code` is the name of Triton's error code."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def ensemble_inputs(arrays: Named) -> dict[str, npt.NDArray[Any]]:
    """The ensemble's inputs; raises `Refusal`."""
    for name, why in MEANINGLESS.items():
        if name in arrays and arrays[name].size and np.any(arrays[name].astype(bool)):
            raise Refusal(f"{name} carries a value and must carry none: {why}", "UNSUPPORTED")
    kept = {name: array for name, array in arrays.items() if name not in MEANINGLESS}
    # Triton has no good sentence for a step without any input.
    if not {"max_tokens", "messages", "text_input"} & kept.keys():
        message = "neither text_input nor messages is given; exactly one must be"
        raise Refusal(message, "INVALID_ARG")
    stream = kept.pop("stream", None)
    # A client that wants a stream gets one response, and as in every stream no echo.
    if stream is not None and stream.any():
        kept["exclude_input_in_output"] = np.ones((len(stream), 1), np.bool_)
    return kept


def error_of(message: str) -> Refusal:
    """The rooms' own message and code, taken out of the error that Triton passed on."""
    found = CODE.search(message)
    if found:
        return Refusal(found[2], found[1])
    stopping = any(words in message for words in STOPPING)
    return Refusal(message, "UNAVAILABLE" if stopping else "INTERNAL")


def ensemble_parameters(given: Mapping[str, Any], own_id: str) -> dict[str, str | bool]:
    """The client's parameters, and this model's own; raises `Refusal`."""
    for name in given:
        if name not in PARAMETERS:
            raise Refusal(
                f"{name[:60]!r} must be an input that config.pbtxt lists, or the "
                "request parameter id or named_errors",
                "INVALID_ARG",
            )
    if not isinstance(given.get("named_errors", True), bool):
        raise Refusal(
            f"named_errors is {given['named_errors']!r:.60} and must be true or false",
            "INVALID_ARG",
        )
    if not isinstance(given.get("id", ""), str):
        raise Refusal(f"id is {given['id']!r:.60} and must be a string", "INVALID_ARG")
    names = {"id": given["id"]} if "id" in given else {}
    return {**names, "cancel_id": own_id, "named_errors": True, "one_response": True}
