"""The tensors of one request to room 2, read into types and checked.

Tensors come as numpy arrays with their leading batch dimension of 1. Every refusal is one
sentence that names the input, its value and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from engine_config import EngineConfig
from token_engine.interface import SamplingParams

Arrays = Mapping[str, npt.NDArray[Any]]
MAX_STOP_STRINGS = 16
MAX_STOP_BYTES = 256
LARGEST_SEED = 2**64 - 1


class InvalidRequest(ValueError):
    """The caller's mistake; answered with INVALID_ARG."""


class EngineUnavailable(RuntimeError):
    """Not now: the queue is full or the engine restarts; answered with UNAVAILABLE."""


@dataclass(frozen=True, slots=True)
class GenerationInputs:
    """One checked request, before it has a key."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    streaming: bool
    echo_prompt: bool  # only an explicit exclude_input_in_output=false asks for it
    stop_strings: tuple[str, ...]
    sampling: SamplingParams

    def check_against(self, config: EngineConfig) -> None:
        """Raise `InvalidRequest` for what this engine cannot hold."""
        limit, vocab_size = config.limits.max_seq_len, config.model.vocab_size
        total = len(self.prompt_ids) + self.max_tokens
        if total > limit:
            raise InvalidRequest(
                f"the prompt of {len(self.prompt_ids)} tokens and max_tokens {self.max_tokens} "
                f"make {total}, allowed are {limit} together"
            )
        for token_id in (min(self.prompt_ids), max(self.prompt_ids)):
            if not 0 <= token_id < vocab_size:
                raise InvalidRequest(
                    f"input_ids holds {token_id}, allowed is 0 to {vocab_size - 1}"
                )


def read_inputs(arrays: Arrays) -> GenerationInputs:
    """The request that `arrays` describe (names and dtypes as in config.pbtxt)."""
    for name in ("input_ids", "request_output_len"):
        if name not in arrays:
            raise InvalidRequest(f"{name} is missing, it is required")
    prompt = _prompt(arrays)
    max_tokens = int(_scalar(arrays, "request_output_len", 0))
    if max_tokens < 1:
        raise InvalidRequest(f"max_tokens is {max_tokens}, allowed is at least 1")
    return GenerationInputs(
        prompt_ids=prompt,
        max_tokens=max_tokens,
        streaming=bool(_scalar(arrays, "streaming", False)),
        echo_prompt=not _scalar(arrays, "exclude_input_in_output", True),
        stop_strings=_stop_strings(arrays),
        sampling=_sampling(arrays),
    )


def _prompt(arrays: Arrays) -> tuple[int, ...]:
    ids = arrays["input_ids"].reshape(-1)
    if not len(ids):
        raise InvalidRequest("input_ids is empty, allowed is at least one id")
    length = int(_scalar(arrays, "input_lengths", len(ids)))
    if not 1 <= length <= len(ids):
        raise InvalidRequest(
            f"input_lengths is {length}, allowed is 1 to {len(ids)}, the size of input_ids"
        )
    return tuple(ids[:length].tolist())


def _sampling(arrays: Arrays) -> SamplingParams:
    """Upstream's defaults: no sampling input, top_k 1 or temperature 0 mean greedy."""
    temperature = _optional(arrays, "temperature")
    top_k = _optional(arrays, "runtime_top_k")
    top_p = _optional(arrays, "runtime_top_p")
    seed = int(_scalar(arrays, "seed", 0)) if "seed" in arrays else None
    if temperature is not None and not (math.isfinite(temperature) and 0 <= temperature <= 100):
        raise InvalidRequest(f"temperature is {temperature:g}, allowed is 0 to 100")
    if top_p is not None and not (math.isfinite(top_p) and top_p <= 1):
        raise InvalidRequest(
            f"top_p is {top_p:g}, allowed is above 0 and up to 1, or 0 and below for unset"
        )
    if top_k is not None and top_k < 0:
        raise InvalidRequest(f"top_k is {int(top_k)}, allowed is 0 for unset, or at least 1")
    unset = temperature is None and not (top_k or 0) and (top_p is None or top_p <= 0)
    if unset or temperature == 0 or top_k == 1:
        return SamplingParams()
    return SamplingParams(
        greedy=False,
        temperature=1.0 if temperature is None else float(temperature),
        top_k=int(top_k or 0),
        top_p=float(top_p) if top_p is not None and top_p > 0 else 1.0,
        seed=_fresh_seed() if seed is None else seed,
    )


def _fresh_seed() -> int:
    # Runtimes default to a fixed seed; two seedless requests must not give the same text.
    return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])


def _stop_strings(arrays: Arrays) -> tuple[str, ...]:
    values = arrays["stop_words"].reshape(-1).tolist() if "stop_words" in arrays else []
    try:
        # Clients of every age send [[""]] for "none".
        stops = tuple(dict.fromkeys(value.decode() for value in values if value))
    except UnicodeDecodeError:
        raise InvalidRequest(
            "stop_words holds bytes that are not UTF-8, allowed is UTF-8 text"
        ) from None
    if len(stops) > MAX_STOP_STRINGS:
        raise InvalidRequest(
            f"stop_words holds {len(stops)} strings, allowed are {MAX_STOP_STRINGS}"
        )
    longest = max((len(stop.encode()) for stop in stops), default=0)
    if longest > MAX_STOP_BYTES:
        raise InvalidRequest(
            f"stop_words holds a string of {longest} bytes, allowed are {MAX_STOP_BYTES}"
        )
    return stops


def _optional(arrays: Arrays, name: str) -> float | None:
    return float(_scalar(arrays, name, 0.0)) if name in arrays else None


def _scalar(arrays: Arrays, name: str, default: Any) -> Any:
    if name not in arrays:
        return default
    values = arrays[name].reshape(-1)
    if len(values) != 1:
        raise InvalidRequest(f"{name} holds {len(values)} values, allowed is 1")
    return values[0].item()
