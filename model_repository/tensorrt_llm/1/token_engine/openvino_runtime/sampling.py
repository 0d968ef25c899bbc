"""A request as OpenVINO GenAI's `GenerationConfig`, what that cannot express, and what the sampler
does not report: logits that are not finite.

The library's order is Hugging Face's: the ban of end ids, the repetition penalty, temperature,
then of what is left top_k, top_p and min_p. Log-probabilities are taken before all of them.

An engine's graph has one more logit than the vocabulary, the alarm, and makes it the largest when
the others are invalid (`build/engines/openvino_graph.py`): the sampler then chooses the token id
`vocab_size`. Only a guide bans the alarm, like every token that it does not allow. So a guided
request always gets log-probabilities: a token chosen instead of the alarm has one that sound logits
never give.

An engine of an earlier build has no alarm. Its graph makes all logits equal, which shows only in
log-probabilities: where the request wants them, and where the library gives a drawn token's anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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


LEAST_SOUND = -(2.0**70)  # a log-probability beside the alarm is -2**76
F32_STEPS = 2e-6  # two steps of a 32-bit number at the logarithm of a vocabulary's size
HIGHEST_TEMPERATURE = 2.0


@dataclass(frozen=True, slots=True)
class AlarmWatch:
    """Watches one request of an engine with an alarm."""

    request: GenerationRequest
    alarm_id: int

    @property
    def needs_logprobs(self) -> bool:
        return self.request.guide is not None

    def is_unsound(self, tokens: Sequence[int], logprobs: Sequence[float]) -> bool:
        """Whether these tokens were chosen where the logits were not finite."""
        return self.alarm_id in tokens or any(value < LEAST_SOUND for value in logprobs)


@dataclass(slots=True)
class EqualLogitsWatch:
    """Watches one request of an engine of an earlier build."""

    request: GenerationRequest
    vocab_size: int
    were_equal: bool = False  # the logits of the last token

    @property
    def needs_logprobs(self) -> bool:
        return False

    def is_unsound(self, tokens: Sequence[int], logprobs: Sequence[float]) -> bool:
        """Whether the library shows that these tokens come from logits that were not finite."""
        if self.request.logprobs is None and not _shows_equal_logits(self.request.sampling):
            return False
        return any(self._is_unsound_value(value) for value in logprobs)

    def _is_unsound_value(self, logprob: float) -> bool:
        """With sound logits the likeliest token never has the probability 1 / vocab_size. A token
        chosen in another way may have it, but hardly twice in a row."""
        expected = -math.log(self.vocab_size)
        before, self.were_equal = self.were_equal, _is_close(logprob, expected)
        return self.were_equal and (before or _chooses_the_likeliest(self.request))


def _is_close(logprob: float, expected: float) -> bool:
    return math.isnan(logprob) or math.isclose(logprob, expected, abs_tol=F32_STEPS)


def _chooses_the_likeliest(request: GenerationRequest) -> bool:
    """Whether each token is the one with the largest raw logit."""
    sampling = request.sampling
    is_free = request.guide is None and not request.min_tokens
    return sampling.greedy and sampling.repetition_penalty == 1 and is_free


def _shows_equal_logits(sampling: SamplingParams) -> bool:
    """Whether the library gives a drawn token's log-probability anyway, with nothing cut off and
    no temperature that makes sound logits equal too."""
    is_whole = sampling.top_k == 0 and sampling.top_p == 1
    return not sampling.greedy and is_whole and sampling.temperature <= HIGHEST_TEMPERATURE
