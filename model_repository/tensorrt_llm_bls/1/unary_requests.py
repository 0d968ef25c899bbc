"""One request to the streaming ensemble -> one response: what comes in parts is put together.

It knows neither tokens nor text, and no Triton: a response is a dict of numpy arrays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
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

CODE = re.compile(r"\[([A-Z_]+)\] (.*)", re.DOTALL)
INDICES = {"batch_index", "sequence_index"}


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
    # Whoever asks for a stream gets one of a single response.
    left_out = {*MEANINGLESS, "stream"}
    return {name: array for name, array in arrays.items() if name not in left_out}


def error_of(message: str) -> Refusal:
    """The rooms' own message and code, out of what Triton made of an error on its way here."""
    found = CODE.search(message)
    return Refusal(found[2], found[1]) if found else Refusal(message, "INTERNAL")


def joined(responses: Iterable[Named]) -> dict[str, npt.NDArray[Any]]:
    """All sequences' responses as one: rows by batch index, then sequence index."""
    parts = [dict(part) for part in sorted(responses, key=_position)]
    names = dict.fromkeys(name for part in parts for name in part)
    for index in INDICES & names.keys():  # a row's only sequence has none
        for part in parts:
            part.setdefault(index, np.zeros((1, 1), np.int32))
    return {name: _stacked([part[name] for part in parts if name in part]) for name in names}


def _position(part: Named) -> tuple[int, int]:
    batch, sequence = part.get("batch_index"), part.get("sequence_index")
    return (
        0 if batch is None else int(batch.reshape(-1)[0]),
        0 if sequence is None else int(sequence.reshape(-1)[0]),
    )


def _stacked(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """One above the other; those of different lengths are filled up with 0 at their ends."""
    shape = np.max([array.shape for array in arrays], axis=0)
    padded = []
    for array in arrays:
        full = np.zeros((array.shape[0], *shape[1:]), array.dtype)
        full[tuple(slice(size) for size in array.shape)] = array
        padded.append(full)
    return np.concatenate(padded)
