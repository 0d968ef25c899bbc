"""The sampling inputs of one row -> `SamplingParams`.

With upstream's meanings: the choice is greedy without temperature, top_k and top_p, and with
top_k 1 or temperature 0; top_p 0 or below means unset.
"""

from __future__ import annotations

import dataclasses
import math

from token_engine.interface import SamplingParams

from request_inputs.rows import InvalidRequest, Row, shown

LARGEST_INT32 = 2**31 - 1
SEEDS = 2**64
BEAM_NUMBERS = {
    "len_penalty": "length_penalty",
    "beam_search_diversity_rate": "beam_search_diversity_rate",
}


def read_sampling(row: Row) -> SamplingParams:
    """Raises `InvalidRequest`."""
    temperature = row.number("temperature", 1.0, 0, 100)
    top_k = row.integer("runtime_top_k", 0, 0, LARGEST_INT32, said="top_k")
    top_p = _top_p(row)
    min_p = row.number("min_p", 0.0, 0, 1)
    seed = row.integer("seed", 0, 0, SEEDS - 1)
    _check_beam_numbers(row)
    asked = "temperature" in row or top_k or min_p or _gives_top_p(row)
    greedy = not asked or temperature == 0 or top_k == 1
    sampling = SamplingParams(
        repetition_penalty=row.number("repetition_penalty", 1.0, 0, 100, above=True),
        presence_penalty=row.number("presence_penalty", 0.0, -2, 2),
        frequency_penalty=row.number("frequency_penalty", 0.0, -2, 2),
    )
    if greedy:
        return sampling
    return dataclasses.replace(
        sampling,
        greedy=False,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed if "seed" in row else None,
    )


def with_seed_of(sampling: SamplingParams, sequence: int) -> SamplingParams:
    """The parameters of another sequence of the same prompt: its draws must differ."""
    if sampling.seed is None or sequence == 0:  # without a seed, no two draw alike
        return sampling
    return dataclasses.replace(sampling, seed=(sampling.seed + sequence) % SEEDS)


def _check_beam_numbers(row: Row) -> None:
    """They act on beams only; checked all the same."""
    for name, called in BEAM_NUMBERS.items():
        value = row.single(name, 0.0, called)
        if not math.isfinite(value):
            raise InvalidRequest(f"{called} is {value} and must be a finite number")


def _top_p(row: Row) -> float:
    value = row.single("runtime_top_p", 1.0, said="top_p")
    if not (math.isfinite(value) and value <= 1):
        raise InvalidRequest(
            f"top_p is {shown(value)} and must be above 0 and up to 1, or 0 and below for unset"
        )
    return float(value) if value > 0 else 1.0


def _gives_top_p(row: Row) -> bool:
    return bool(row.single("runtime_top_p", 0.0) > 0)
