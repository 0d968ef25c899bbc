"""A request's sampling in OpenVINO GenAI's words. Knows no pipeline."""

from __future__ import annotations

from typing import Any

from token_engine.interface import GenerationRequest


def generation_config(genai: Any, request: GenerationRequest) -> Any:
    """The library's `GenerationConfig` of a request."""
    config = genai.GenerationConfig()
    config.max_new_tokens = request.max_tokens
    # Left empty, both would be filled from generation_config.json; ignore_eos ignores both.
    if request.end_ids:
        config.eos_token_id = request.end_ids[0]
        config.stop_token_ids = set(request.end_ids)
    else:
        config.ignore_eos = True
    sampling = request.sampling
    if not sampling.greedy:
        config.do_sample = True
        config.temperature = sampling.temperature
        config.top_p = sampling.top_p
        if sampling.top_k:
            config.top_k = sampling.top_k
        config.rng_seed = _seed_of_32_bits(sampling.seed)
    return config


def _seed_of_32_bits(seed: int) -> int:
    """The library's generator (mt19937) takes 32 bits; larger seeds are hashed, not cut off."""
    if seed < 2**32:
        return seed
    return (seed * 0x9E3779B97F4A7C15 % 2**64) >> 32  # Fibonacci hashing
