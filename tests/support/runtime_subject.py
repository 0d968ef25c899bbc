"""The engine under test in every runtime's suite, and the plain formulas for what is right."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from token_engine.interface import EngineStats, GenerationRequest, SamplingParams, TokenEngine
from token_engine.registry import RUNTIMES

from tests.support.engine_answers import Answer, Floats, drain

GREEDY = SamplingParams()
SAMPLED = replace(GREEDY, greedy=False)
Adjust = Callable[[Floats, list[int]], Floats]


@dataclass
class Subject:
    """An engine under test and the truth about its model."""

    runtime: str
    engine: TokenEngine
    logits: Callable[[Sequence[int]], Floats]  # of the token after these
    prompt: Callable[[int, int], tuple[int, ...]]  # (length, seed): no end ids among them
    vocab_size: int
    eos: tuple[int, ...]  # of the checkpoint
    max_batch_size: int
    max_num_tokens: int
    max_seq_len: int
    margin: float = 0.0  # by which the best logit must lead to be sure
    exact: bool = True  # whether tokens are the same in any batch
    min_p_first: bool = False  # before top_k and top_p
    logprob_error: float = 1e-9
    draw_error: float = 0.0  # of a distribution that is drawn from, as a total variation distance
    draws: int = 400
    repeats_itself: bool = True  # a random model of 128,256 tokens says none twice in an answer
    tells_first_pass: bool = True
    tells_kv_blocks: bool = True
    lacks: frozenset[str] = frozenset()  # features that this version of the runtime refuses itself
    seeds: bool = True  # whether equal seeds draw equal tokens; otherwise seeds are refused
    top_p_of_all: bool = False  # top_p of the whole distribution, not of what top_k left
    drawn_logprobs: float = 1.7  # the temperature of drawn log-probabilities; 0: none
    always_ends: tuple[int, ...] = ()  # ids that end each request that has end ids
    play: Callable[[Sequence[int], int], list[int]] | None = None  # a runtime's without a model
    keys: Any = dataclasses.field(default_factory=lambda: itertools.count(1))

    def has(self, feature: str) -> bool:
        """Whether the runtime offers it."""
        return feature in RUNTIMES[self.runtime].features - self.lacks

    def repeats(self, request: GenerationRequest) -> bool:
        """Whether it gets the same tokens in any batch."""
        return self.exact and (request.sampling.greedy or self.seeds)

    def request(self, prompt: Sequence[int], max_tokens: int, **more: Any) -> GenerationRequest:
        """A request with a key of its own; greedy by default."""
        fields: dict[str, Any] = {"end_ids": (), **more}
        if fields["end_ids"]:
            ends = (*fields["end_ids"], *self.always_ends)
            fields["end_ids"] = tuple(dict.fromkeys(ends))
        return GenerationRequest(next(self.keys), tuple(prompt), max_tokens, **fields)

    def seed(self, number: int) -> int | None:
        """`number`, or None where the runtime refuses seeds."""
        return number if self.seeds else None

    def likely(self, prompt: Sequence[int], count: int) -> tuple[int, ...]:
        """The likeliest next tokens, without end ids."""
        order = np.argsort(-self.logits(prompt)).tolist()
        return tuple([token for token in order if token not in self.eos][:count])

    def answer(self, *requests: GenerationRequest) -> list[Answer]:
        """Submit all at once and step to the end."""
        for one in requests:
            self.engine.submit(one)
        answers = drain(self.engine)
        return [answers[one.key] for one in requests]

    def sure(
        self,
        prompt: Sequence[int],
        count: int,
        adjust: Adjust | None = None,
        margin: float = 0.0,
        answer: Sequence[int] = (),
    ) -> list[int]:
        """The right greedy tokens, up to where the two best logits are too close to be sure.

        Given the engine's tokens as `answer`, they go on from there with the engine's token if it
        is as close to the best, and otherwise end with the best.
        """
        if self.play is not None:
            return self.play(prompt, count)
        margin = max(self.margin, margin)
        output: list[int] = []
        while len(output) < count:
            logits = self.logits([*prompt, *output]).copy()
            if adjust is not None:
                logits = adjust(logits, output)
            second, first = np.sort(logits)[-2:]
            best = int(logits.argmax())
            if first - second <= margin:
                if len(output) >= len(answer):
                    break
                if first - logits[answer[len(output)]] > margin:
                    return [*output, best]
                best = answer[len(output)]
            output.append(best)
        return output


def is_idle(stats: EngineStats) -> bool:
    """Whether nothing runs, waits or holds KV blocks."""
    return (stats.active_requests, stats.queued_requests, stats.kv_blocks_used) == (0, 0, 0)


def differ(tokens: Sequence[int], others: Sequence[int]) -> bool:
    """Whether they differ within their common length."""
    return any(one != other for one, other in zip(tokens, others, strict=False))


def repetition(penalty: float, prompt: Sequence[int], logits: Floats, output: list[int]) -> Floats:
    """The repetition penalty of Keskar et al. (2019), over prompt and output."""
    seen = list({*prompt, *output})
    logits[seen] *= np.where(logits[seen] < 0, penalty, 1 / penalty)
    return logits


def occurrence(
    presence: float,
    frequency: float,
    bias: Sequence[tuple[int, float]],
    logits: Floats,
    output: list[int],
) -> Floats:
    """OpenAI's presence and frequency penalties, over the output alone, and a bias."""
    for token, value in bias:
        logits[token] += value
    for token in set(output):
        logits[token] -= presence + frequency * output.count(token)
    return logits


def distribution(
    logits: Floats, sampling: SamplingParams, min_p_first: bool, top_p_of_all: bool = False
) -> Floats:
    """Temperature, then top_k, then the fewest that reach top_p; min_p before or after these."""
    shares = np.exp((logits - logits.max()) / sampling.temperature)
    shares /= shares.sum()
    if min_p_first:
        shares[shares < sampling.min_p * shares.max()] = 0
    order = np.argsort(-shares)
    reached = np.cumsum(shares[order]) / shares.sum()
    if sampling.top_k:
        shares[order[sampling.top_k :]] = 0
    if not top_p_of_all:
        reached = np.cumsum(shares[order]) / shares.sum()
    shares[order[np.searchsorted(reached, sampling.top_p) + 1 :]] = 0
    shares[shares < sampling.min_p * shares.max()] = 0
    result: Floats = shares / shares.sum()
    return result
