"""Detects requests whose logits are not finite, which the library does not report.

The graph of an engine has one logit more than the vocabulary has, the alarm, and makes it the
largest where the others mean nothing (`build/engines/openvino_graph.py`): the token id that is
chosen is then `vocab_size`. Only a guide bans the alarm, as it does every token that is none of its
own. So a guided request always asks for log-probabilities: what is chosen beside the alarm has one
that no sound logits give.

An engine of an earlier build has no alarm. Its graph makes all logits equal, which is seen where
log-probabilities are asked for, and where the library gives those of a drawn token unasked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from token_engine.interface import GenerationRequest, SamplingParams

LEAST_SOUND = -(2.0**70)  # a log-probability beside the alarm is -2**76
F32_STEPS = 2e-6  # two steps of a 32-bit number at the logarithm of a vocabulary's size
HOTTEST_TOLD = 2.0


@dataclass(frozen=True, slots=True)
class AlarmWatch:
    """Over one request of an engine with an alarm."""

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
    """Over one request of an engine of an earlier build."""

    request: GenerationRequest
    vocab_size: int
    were_equal: bool = False  # the logits of the last token

    @property
    def needs_logprobs(self) -> bool:
        return False

    def is_unsound(self, tokens: Sequence[int], logprobs: Sequence[float]) -> bool:
        """Whether the library shows that these tokens come from logits that were not finite."""
        if self.request.logprobs is None and not _tells_equal_logits(self.request.sampling):
            return False
        return any(self._is_of_unsound(value) for value in logprobs)

    def _is_of_unsound(self, logprob: float) -> bool:
        """The likeliest token never has the probability 1 / vocab_size otherwise. One that was
        chosen in another way may, but hardly twice in a row."""
        expected = -math.log(self.vocab_size)
        before, self.were_equal = self.were_equal, _is_close(logprob, expected)
        return self.were_equal and (before or _takes_the_likeliest(self.request))


def _is_close(logprob: float, expected: float) -> bool:
    return math.isnan(logprob) or math.isclose(logprob, expected, abs_tol=F32_STEPS)


def _takes_the_likeliest(request: GenerationRequest) -> bool:
    """Whether each token is the one with the largest raw logit."""
    sampling = request.sampling
    is_free = request.guide is None and not request.min_tokens
    return sampling.greedy and sampling.repetition_penalty == 1 and is_free


def _tells_equal_logits(sampling: SamplingParams) -> bool:
    """Whether the library says a drawn token's log-probability unasked, with nothing cut off and
    no temperature that makes a sound model's logits equal too."""
    is_whole = sampling.top_k == 0 and sampling.top_p == 1
    return not sampling.greedy and is_whole and sampling.temperature <= HOTTEST_TOLD
