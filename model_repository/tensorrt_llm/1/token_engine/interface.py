"""The interface of every engine runtime, and its messages.

A runtime knows nothing of text, tensors or Triton. It lives in the engine process
(`engine_process.py`), on one thread, and that process's loop drives it::

    submit(request) ... cancel(key) ...      between steps, never during one
    deltas = step()                          while has_work is true

Every request that was submitted ends with exactly one delta whose `finish_reason` is set,
unless it was cancelled: a cancelled request gets no further delta.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled", "timeout", "error"]
Fault = Literal["engine", "invalid", "unsupported"]
GuideKind = Literal["json", "json_schema", "regex", "ebnf_grammar", "choice"]


class UnsupportedParameter(ValueError):
    """The runtime cannot honour a parameter; the message names it, its value and the runtime."""


def lacks(runtime: str, name: str, value: object, needed: str) -> str:
    """The sentence that says what a parameter that a runtime cannot honour must be instead.

    `needed` is "none" for one that must be left out.
    """
    if needed == "none":
        return f"{name} is {value}; the {runtime} runtime does not support it"
    return f"{name} is {value}; with the {runtime} runtime it must be {needed}"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. `greedy`: without drawing at random.

    The penalties act on greedy choices too. A repetition penalty r divides a positive and
    multiplies a negative logit of every token of prompt and output (Keskar et al. 2019). OpenAI's
    formula for the others: logit - presence * (count > 0) - frequency * count, of output tokens.
    """

    greedy: bool = True
    temperature: float = 1.0  # > 0; applied before the filters below
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0  # 0 < top_p <= 1
    min_p: float = 0.0  # 0 <= min_p <= 1; of the most likely token's probability
    # 0 <= seed < 2**64: equal seeds give equal tokens, in any batch; a runtime that cannot promise
    # that refuses a seed. None: the client gave none, and no two requests draw alike.
    seed: int | None = None
    repetition_penalty: float = 1.0  # > 0
    presence_penalty: float = 0.0  # -2 to 2
    frequency_penalty: float = 0.0  # -2 to 2

    def seed_or_fresh(self) -> int:
        """The client's seed, or a random one: for libraries that have a fixed one by default."""
        return secrets.randbits(64) if self.seed is None else self.seed


@dataclass(frozen=True, slots=True)
class Guide:
    """What the whole output must match: any JSON value, a JSON schema, a regex, a grammar, or one
    of several strings."""

    kind: GuideKind
    # The schema, the regex, the grammar in EBNF, or the strings as a JSON list; nothing for "json".
    text: str = ""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate. Validated before it gets here: ids in vocabulary, lengths fit."""

    key: int  # unique over the life of the engine process
    prompt_ids: tuple[int, ...]  # at least one
    max_tokens: int  # >= 1
    end_ids: tuple[int, ...]  # any of these ends the sequence and is not part of the output
    sampling: SamplingParams = SamplingParams()
    min_tokens: int = 0  # before so many tokens no end id is chosen; at most max_tokens
    logprobs: int | None = None  # None: not wanted; N: each token's and those of the N most likely
    bad_words: tuple[tuple[int, ...], ...] = ()  # token sequences that are never generated
    # (token id, what is added to its logit: -1e30 to 1e30)
    token_bias: tuple[tuple[int, float], ...] = ()
    guide: Guide | None = None
    priority: int = 0  # among waiting requests the lowest number starts first


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithms of probabilities under the model's own logits (temperature 1)."""

    logprob: float  # of the token that was chosen
    top: tuple[tuple[int, float], ...] = ()  # (token id, logprob) of the most likely, best first


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """The tokens that one request gained in one step."""

    key: int
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    error: str = ""  # one sentence, only with finish_reason "error"
    fault: Fault = "engine"  # who caused it, only with finish_reason "error"
    logprobs: tuple[TokenLogprob, ...] = ()  # one for each token, if the request wants them
    first_scheduled_ns: int = 0  # time.time_ns() of the first forward pass; with the last delta
    end_id: int = -1  # which of the end ids ended it; it is not among `token_ids`


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot: counts of requests, and of KV-cache blocks (0 where the runtime has none).

    The last two are sums since the engine's start, 0 where the runtime does not know them.
    """

    active_requests: int = 0
    queued_requests: int = 0
    kv_blocks_total: int = 0
    kv_blocks_used: int = 0
    prefix_tokens_looked_up: int = 0  # prompt tokens looked up in the prefix cache
    prefix_tokens_found: int = 0  # of these, those that it had

    @property
    def is_idle(self) -> bool:
        """Whether no request holds any resource of the engine."""
        return not (self.active_requests or self.queued_requests or self.kv_blocks_used)


class TokenEngine(ABC):
    """One engine runtime. A new one is one folder here and one line in `registry.py`.

    The constructor loads the engine, and raises `EngineLoadError` with one sentence that names the
    command to run. The engine process runs a warm forward pass before it reports ready.
    """

    @property
    def facts(self) -> dict[str, str]:
        """What the engine chose for this machine: labels of `llama_fp4_engine_info` and values."""
        return {}

    def prepare(self) -> None:
        """Called once after the warm-up: begin what the first requests should not wait for."""
        return

    @property
    @abstractmethod
    def has_work(self) -> bool:
        """Whether any request lacks its last delta, or a cancelled one is not freed yet."""

    @abstractmethod
    def submit(self, request: GenerationRequest) -> None:
        """Queue a request. Raises `UnsupportedParameter` for what the runtime cannot do."""

    @abstractmethod
    def cancel(self, key: int) -> None:
        """Forget a request and free its KV cache. An unknown key is no error."""

    @abstractmethod
    def step(self) -> list[TokenDelta]:
        """Advance every running request as far as one forward pass takes it.

        An exception from here is fatal to the engine process, which then restarts.
        """

    @abstractmethod
    def stats(self) -> EngineStats:
        """The counts after the last step."""

    @abstractmethod
    def shutdown(self) -> None:
        """Free what the engine holds. Called once."""


class EngineLoadError(RuntimeError):
    """The engine cannot be loaded; the message says why and names the command to run."""
