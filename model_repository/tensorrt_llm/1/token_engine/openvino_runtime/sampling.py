"""A request as OpenVINO GenAI's `GenerationConfig`, and what it cannot express.

The library's order is Hugging Face's: the ban of end ids, the repetition penalty, temperature,
then of what is left top_k, top_p and min_p. Log-probabilities are taken before all of them.
"""

from __future__ import annotations

from typing import Any

from token_engine.interface import GenerationRequest, SamplingParams, UnsupportedParameter, lacks

# What the library gets for each field of a request, as model_repository/TENSORS.md shows it.
# "refused ..." means every value but the default.
HONOURS = {
    "greedy": "do_sample stays false; temperature, top_k, top_p and min_p unset",
    "temperature": "temperature, 1e-15 to 1e15",
    "top_k": "top_k, where it is not 0",
    "top_p": "top_p, at least 1e-15",
    "min_p": "min_p, below 1 (it refuses 1)",
    "seed": "rng_seed, hashed into 32 bits; drawn for a request without one",
    "repetition_penalty": "repetition_penalty: of prompt and output, by the logit's sign",
    "presence_penalty": "refused: the library's depends on the logit's sign (2026.4)",
    "frequency_penalty": "refused: as presence_penalty",
    "max_tokens": "max_new_tokens",
    "end_ids": "eos_token_id and stop_token_ids; none: ignore_eos",
    "min_tokens": "min_new_tokens, where there are end ids: it bans all of stop_token_ids",
    "bad_words": "refused: the library has none",
    "token_bias": "refused: the library has none",
    "logprobs": "logprobs=1, the chosen token's, of the raw logits; more are refused",
    "guide": "structured_output_config; see guide_queue.py",
    "priority": "the runtime keeps its own queue",
}

# The library computes in f32, where a wider factor makes infinities; and it raises inside the
# pipeline, which ends everybody's request, at what becomes 0 in f32. Beyond these no choice
# changes any more: the likeliest token has all the probability, or all have the same.
LEAST, MOST = 1e-15, 1e15
LARGEST_BELOW_1 = 1 - 2**-24  # in f32
LARGEST_TOP_K = 2**31 - 1  # larger than any vocabulary; the library has 64 bits


def refuse_unsupported(request: GenerationRequest, vocab_size: int) -> None:
    """Raise `UnsupportedParameter` for what the library does not do, or does wrongly."""
    sampling = request.sampling
    # Its penalties depend on the logit's sign: a repeated token with a negative one is rewarded.
    wanted = [
        ("presence_penalty", sampling.presence_penalty, "0"),
        ("frequency_penalty", sampling.frequency_penalty, "0"),
        ("logprobs", request.logprobs or 0, "0, the chosen token's"),
        ("bad_words", "given" if request.bad_words else "", "none"),
        ("embedding_bias", "given" if request.token_bias else "", "none"),
    ]
    for name, value, needed in wanted:
        if value:
            raise UnsupportedParameter(lacks("openvino", name, value, needed))
    if request.min_tokens and len(set(request.end_ids)) == vocab_size:
        raise UnsupportedParameter(
            f"min_tokens is {request.min_tokens}, but must be 0 where every token is an end id"
        )


def generation_config(genai: Any, request: GenerationRequest) -> Any:
    """The library's `GenerationConfig` of a request; valid for every valid request."""
    config = genai.GenerationConfig()
    config.max_new_tokens = request.max_tokens
    # Left empty, both would be filled from generation_config.json; ignore_eos ignores both.
    if request.end_ids:
        config.eos_token_id = request.end_ids[0]
        config.stop_token_ids = set(request.end_ids)
        config.min_new_tokens = request.min_tokens  # bans stop_token_ids
    else:
        config.ignore_eos = True
    if request.logprobs is not None:
        config.logprobs = 1  # the chosen token's; 0 is the library's word for none
    config.repetition_penalty = _bounded(request.sampling.repetition_penalty)
    if not request.sampling.greedy:
        _sample(config, request.sampling)
    return config


def _sample(config: Any, sampling: SamplingParams) -> None:
    config.do_sample = True
    config.temperature = _bounded(sampling.temperature)
    if sampling.top_k:
        config.top_k = min(sampling.top_k, LARGEST_TOP_K)
    config.top_p = _bounded(sampling.top_p)
    config.min_p = min(sampling.min_p, LARGEST_BELOW_1)  # the library refuses 1
    config.rng_seed = _seed_of_32_bits(sampling.seed_or_fresh())


def _bounded(factor: float) -> float:
    return min(max(factor, LEAST), MOST)


def _seed_of_32_bits(seed: int) -> int:
    """The library's generator (mt19937) takes 32 bits; larger seeds are hashed, not cut off."""
    if seed < 2**32:
        return seed
    return (seed * 0x9E3779B97F4A7C15 % 2**64) >> 32  # Fibonacci hashing
