"""How the fakes choose a token from the model's logits, each in its library's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.fakes.libraries.worker import Logprobs
from tests.fakes.tensorrt_llm.fake_sampler import Floats, log_softmax, model_logits

SHARED = np.random.default_rng(42)


@dataclass(frozen=True)
class Wishes:
    """A request's sampling parameters, as the library understood them."""

    prompt: Sequence[int]
    vocab_size: int
    temperature: float = 1.0  # 0: greedy
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = 0  # None: of a generator that all requests share
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: dict[int, float] = field(default_factory=dict)
    bad_words: Sequence[Sequence[int]] = ()
    banned_before: int = 0  # tokens
    banned: frozenset[int] = frozenset()  # ... of which none comes before so many
    guide: Sequence[int] | None = None  # what the output is, and then a token of `guide_end`
    guide_end: frozenset[int] = frozenset()
    logprobs: int | None = None
    raw_logprobs: bool = True  # of the model's logits; else of those with penalties and bans
    min_p_first: bool = False  # before top_k and top_p
    top_p_of_all: bool = False  # of the whole distribution, else of what top_k left


class Chooser:
    """Chooses the tokens of one request."""

    def __init__(self, wishes: Wishes) -> None:
        self._wishes = wishes

    def __call__(self, output: Sequence[int]) -> tuple[int, Logprobs]:
        wishes = self._wishes
        raw = model_logits([*wishes.prompt, *output], wishes.vocab_size)
        logits = self._changed(raw.copy(), output)
        token = self._draw(logits, len(output))
        if wishes.logprobs is None:
            return token, None
        values = log_softmax(raw if wishes.raw_logprobs else logits)
        best = np.argsort(-values)[: wishes.logprobs].tolist()
        return token, {one: float(values[one]) for one in {*best, token}}

    def _changed(self, logits: Floats, output: Sequence[int]) -> Floats:
        wishes = self._wishes
        for word in wishes.bad_words:
            if list(output[len(output) - len(word) + 1 :]) == list(word[:-1]):
                logits[word[-1]] = -np.inf
        if len(output) < wishes.banned_before:
            logits[list(wishes.banned)] = -np.inf
        for token, bias in wishes.bias.items():
            logits[token] += bias
        seen = list({*wishes.prompt, *output})
        factor = wishes.repetition_penalty
        logits[seen] *= np.where(logits[seen] < 0, factor, 1 / factor)
        counts = np.bincount(output, minlength=wishes.vocab_size) if len(output) else 0
        logits = logits - wishes.frequency_penalty * counts
        logits = logits - wishes.presence_penalty * (np.asarray(counts) > 0)
        if wishes.guide is not None:
            at_end = len(output) >= len(wishes.guide)
            allowed = list(wishes.guide_end) if at_end else [wishes.guide[len(output)]]
            kept = logits[allowed]
            logits[:] = -np.inf
            logits[allowed] = kept
        return logits

    def _draw(self, logits: Floats, step: int) -> int:
        wishes = self._wishes
        if wishes.temperature == 0:
            return int(logits.argmax())
        shares = np.exp(log_softmax(logits / wishes.temperature))
        if wishes.min_p_first:
            shares[shares < wishes.min_p * shares.max()] = 0
        shares = _top_k_top_p(shares, wishes.top_k, wishes.top_p, wishes.top_p_of_all)
        shares[shares < wishes.min_p * shares.max()] = 0
        generator = SHARED
        if wishes.seed is not None:
            generator = np.random.default_rng([wishes.seed, step])
        return int(generator.choice(len(shares), p=shares / shares.sum()))


def _top_k_top_p(shares: Floats, top_k: int, top_p: float, top_p_of_all: bool) -> Floats:
    order = np.argsort(-shares)
    reached = np.cumsum(shares[order]) / shares.sum()
    if top_k:
        shares[order[top_k:]] = 0
    if not top_p_of_all:
        reached = np.cumsum(shares[order]) / shares.sum()
    shares[order[np.searchsorted(reached, top_p) + 1 :]] = 0
    return shares
