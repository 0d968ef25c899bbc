"""Detects requests whose logits are not finite, which the library does not report.

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

from token_engine.interface import GenerationRequest, SamplingParams

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
