"""What the unary model makes of a request before it asks the ensemble, and of the errors it gets.

It knows neither tokens nor text, and no Triton.
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

# As the rooms begin a message; Triton's own may hold anything in brackets, a request id for one.
CODE = re.compile(
    r"\[(INVALID_ARG|UNSUPPORTED|UNAVAILABLE|NOT_FOUND|CANCELLED|INTERNAL)\] (.*)", re.DOTALL
)
# Of what Triton itself says, that which means: not now.
STOPPING = ("Server not ready", "Server is stopping", "is not ready", "no available versions")
# What a client's request parameters may be; see tensorrt_llm/1/request_parameters.py.
PARAMETERS = ("id", "named_errors", "Streaming", "accumulate_tokens")


class Refusal(Exception):
    """A request is not admitted; `code` is the name of Triton's error code."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def ensemble_inputs(arrays: Named) -> dict[str, npt.NDArray[Any]]:
    """What the ensemble is to be asked; raises `Refusal`."""
    for name, why in MEANINGLESS.items():
        if name in arrays and arrays[name].size and np.any(arrays[name].astype(bool)):
            raise Refusal(f"{name} carries a value, allowed is none: {why}", "UNSUPPORTED")
    kept = {name: array for name, array in arrays.items() if name not in MEANINGLESS}
    # Of a step with no input at all, Triton has no good sentence.
    if not {"max_tokens", "messages"} & kept.keys():
        raise Refusal("max_tokens is missing, it is required with text_input", "INVALID_ARG")
    stream = kept.pop("stream", None)
    # Whoever asks for a stream gets one of a single response, and as in every stream no echo.
    if stream is not None and stream.any():
        kept["exclude_input_in_output"] = np.ones((len(stream), 1), np.bool_)
    return kept


def error_of(message: str) -> Refusal:
    """The rooms' own message and code, out of what Triton made of an error on its way here."""
    found = CODE.search(message)
    if found:
        return Refusal(found[2], found[1])
    stopping = any(words in message for words in STOPPING)
    return Refusal(message, "UNAVAILABLE" if stopping else "INTERNAL")


def ensemble_parameters(given: Mapping[str, Any], cancel_id: str) -> dict[str, str | bool]:
    """The client's, and those by which the rooms serve this model; raises `Refusal`."""
    for name in given:
        if name not in PARAMETERS:
            raise Refusal(
                f"{name[:60]!r} is neither an input nor a request parameter, "
                "allowed are the inputs that config.pbtxt lists, id and named_errors",
                "INVALID_ARG",
            )
    if not isinstance(given.get("named_errors", True), bool):
        raise Refusal(
            f"named_errors is {given['named_errors']!r:.60}, allowed are true and false",
            "INVALID_ARG",
        )
    if not isinstance(given.get("id", ""), str):
        raise Refusal(f"id is {given['id']!r:.60}, allowed is a string", "INVALID_ARG")
    names = {"id": given["id"]} if "id" in given else {}
    return {**names, "cancel_id": cancel_id, "named_errors": True, "one_response": True}
