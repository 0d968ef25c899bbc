"""A tiny deterministic model, and how TensorRT-LLM's samplers choose from its logits.

What a sampler ignores in the library is ignored here: that is what the tests are about. Sources:
cpp/tensorrt_llm/kernels/penaltyKernels.cu, layers/layerUtils.h, executor/samplingConfig.cpp,
tensorrt_llm/_torch/pyexecutor/sampler.py (1.0, 1.2), docs/source/features/sampling.md (2026).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Kind = Literal["cpp", "greedy_torch", "early_torch", "torch"]
TOP_K_MAX = 1024


def model_logits(tokens: Sequence[int], vocab_size: int) -> Floats:
    """The next token's logits: a function of the length and the last three tokens."""
    logits: Floats = np.random.default_rng([len(tokens), *tokens[-3:]]).normal(size=vocab_size) * 2
    return logits


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max()
    result: Floats = shifted - np.log(np.exp(shifted).sum())
    return result


class Chooser:
    """Chooses the tokens of one request, one after another."""

    def __init__(self, kind: Kind, params: Any, prompt: Sequence[int], vocab_size: int) -> None:
        self._kind = kind
        self._params = params
        self._prompt = list(prompt)
        self._vocab_size = vocab_size
        self._guide = guided_tokens(params)

    def choose(self, output: Sequence[int], shared: np.random.Generator) -> tuple[int, Any]:
        """The next token, and its log-probabilities as {id: (logprob, rank)} or None."""
        logits = model_logits([*self._prompt, *output], self._vocab_size)
        if self._kind == "greedy_torch":
            return int(logits.argmax()), None
        if self._params.embedding_bias is not None:
            logits = logits + np.asarray(self._params.embedding_bias.values, np.float64)
        self._hold_to_guide(logits, output)
        seen = logits.copy()
        scores = self._scores(logits, output)
        token = self._draw(scores, len(output), shared)
        return token, self._logprobs(seen, scores, token)

    def _hold_to_guide(self, logits: Floats, output: Sequence[int]) -> None:
        if self._guide is None or len(output) > len(self._guide):
            return
        allowed = [*self._guide, self._params.end_id][len(output)]
        kept = logits[allowed]
        logits[:] = -np.inf
        logits[allowed] = kept

    def _scores(self, logits: Floats, output: Sequence[int]) -> Floats:
        temperature = self._params.temperature
        temperature = 1.0 if temperature is None else temperature
        if self._kind == "cpp" and temperature != 1:
            logits = logits / (temperature + 1e-6)
        if self._kind in ("cpp", "torch"):
            logits = self._penalized(logits, output)
            self._ban(logits, output)
        if self._kind != "cpp" and not self._is_greedy():
            logits = logits / max(temperature, 1e-5)
        return logits

    def _penalized(self, logits: Floats, output: Sequence[int]) -> Floats:
        params = self._params
        ignored = getattr(params, "prompt_ignore_length", None) or 0
        everything = np.bincount([*self._prompt, *output], minlength=self._vocab_size)
        counted = [*self._prompt[ignored:], *output]
        counts = np.bincount(counted, minlength=self._vocab_size) if counted else 0 * everything
        repetition = params.repetition_penalty or 1.0
        factor = np.where(logits < 0, repetition, 1 / repetition)
        logits = np.where(everything > 0, logits * factor, logits)
        penalized: Floats = (
            logits
            - (params.presence_penalty or 0.0) * (counts > 0)
            - (params.frequency_penalty or 0.0) * counts
        )
        return penalized

    def _ban(self, logits: Floats, output: Sequence[int]) -> None:
        if len(output) < (self._params.min_tokens or 0):
            logits[self._params.end_id] = -np.inf  # and none of stop_token_ids
        history = [*self._prompt, *output]
        for word in self._params._get_bad_words():
            if history[len(history) - len(word) + 1 :] == word[:-1]:
                logits[word[-1]] = -np.inf

    def _is_greedy(self) -> bool:
        params = self._params
        chosen = (params.temperature, params.top_p, params.top_k)
        if self._kind == "cpp":
            return params.top_k == 1 or (not params.top_k and not params.top_p)
        return (
            chosen == (None, None, None)
            or params.top_k == 1
            or params.top_p == 0
            or params.temperature == 0
        )

    def _draw(self, scores: Floats, step: int, shared: np.random.Generator) -> int:
        if self._is_greedy():
            return int(scores.argmax())
        params = self._params
        shares = np.exp(log_softmax(scores))
        if self._kind in ("cpp", "torch") and params.min_p:
            shares[shares < params.min_p * shares.max()] = 0
        top_k = params.top_k or 0
        if self._kind == "cpp":
            top_k = min(top_k, TOP_K_MAX)
        order = np.argsort(-shares)
        if top_k:
            shares[order[top_k:]] = 0
        summed = np.cumsum(shares[order]) / shares.sum()
        shares[order[np.searchsorted(summed, params.top_p or 1.0) + 1 :]] = 0
        generator = shared
        if self._kind == "cpp":
            generator = np.random.default_rng([params.seed or 0, step])
        return int(generator.choice(len(shares), p=shares / shares.sum()))

    def _logprobs(self, seen: Floats, scores: Floats, token: int) -> Any:
        wanted = self._params.logprobs
        if self._kind == "cpp":
            # Of what it drew from; 0 is no number of log-probabilities, and more than one is one.
            return {token: (float(log_softmax(scores)[token]), 1)} if wanted else None
        if wanted is None or (self._kind == "early_torch" and not wanted):
            return None
        values = log_softmax(seen)
        best = np.argsort(-values)[:wanted].tolist()
        if self._kind == "torch" and token not in best:
            best.append(token)
        return {one: (float(values[one]), rank) for rank, one in enumerate(best, 1)}


def guided_tokens(params: Any) -> list[int] | None:
    """The fake's grammars have one word each: the guide's own bytes."""
    guide = params.guided_decoding
    if guide is None:
        return None
    text = "{}" if guide.json_object else guide.json or guide.regex or guide.grammar
    return list(str(text).encode())
