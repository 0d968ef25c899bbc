"""What the libraries' responses have in common, and how they become deltas."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from token_engine.interface import FinishReason, TokenDelta, TokenLogprob


class RefusedRequest(ValueError):
    """The library does not take a request, and the request is at fault."""


class IncompleteResponse(RuntimeError):
    """A response lacks what the library promises: it fails one request, which is not at fault."""


# Raised by sound code that meets something odd in one request or response.
ODDITIES = (AssertionError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

# The schema of the guide "json", for libraries whose own word for it means something else.
OBJECT_OR_ARRAY = '{"anyOf": [{"type": "object"}, {"type": "array"}]}'


@dataclass(frozen=True, slots=True)
class Gain:
    """The tokens of one response; `finish_reason` is set with the last one."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    error: str = ""
    first_scheduled_ns: int = 0
    end_id: int = -1

    def as_delta(self, key: int, first_scheduled_ns: int) -> TokenDelta:
        """As a delta. The time is the request's, which may have had an earlier part."""
        last = self.finish_reason is not None
        return TokenDelta(
            key,
            self.token_ids,
            self.finish_reason,
            self.error,
            logprobs=self.logprobs,
            first_scheduled_ns=first_scheduled_ns if last else 0,
            end_id=self.end_id,
        )


def readable(library: str, read: Callable[..., Gain], *arguments: Any) -> Gain:
    """What `read` makes of a response. A response that cannot be read fails its request alone."""
    try:
        return read(*arguments)
    except RefusedRequest:
        raise
    except ODDITIES as error:
        said = f"{library} sent a response of another kind ({kind_and_message(error)})"
        raise IncompleteResponse(said) from error


def read_logprobs(
    tokens: Sequence[int], entries: Sequence[Any], wanted: int, library: str
) -> tuple[TokenLogprob, ...]:
    """Out of {token id: object with `logprob`} of each token, or of its own log-probability. An end
    id that was taken off the tokens has an entry all the same."""
    if len(entries) < len(tokens):
        raise IncompleteResponse(
            f"{library} sent {len(entries)} log-probabilities with {len(tokens)} tokens"
        )
    return tuple(
        make_logprob(token, _values_of(entry, token), wanted, library)
        for token, entry in zip(tokens, entries, strict=False)
    )


def _values_of(entry: Any, token: int) -> dict[int, float]:
    if isinstance(entry, float | int):
        return {token: float(entry)}
    return {int(key): float(one.logprob) for key, one in entry.items()}


def make_logprob(token: int, values: dict[int, float], wanted: int, library: str) -> TokenLogprob:
    """The log-probability of one token, from those of some tokens, which include it."""
    if token not in values:
        raise IncompleteResponse(f"{library} sent no log-probability of token {token}")
    for key, value in values.items():
        if math.isnan(value) or (key == token and math.isinf(value)):
            raise IncompleteResponse(f"{library} sent the log-probability {value} of token {key}")
    limited = {key: min(value, 0.0) for key, value in values.items() if value > -math.inf}
    best = sorted(limited.items(), key=lambda pair: -pair[1])
    return TokenLogprob(limited[token], tuple(best[:wanted]))


def epoch_ns(monotonic_s: float) -> int:
    """A time of the machine's monotonic clock, in nanoseconds since the epoch."""
    age_ns = time.monotonic_ns() - round(monotonic_s * 1e9)
    return time.time_ns() - age_ns


def one_line(error: BaseException) -> str:
    """An exception's message, for the middle of a sentence."""
    text = " ".join(str(error).split())
    return text[:300] if text else type(error).__name__


def kind_and_message(error: BaseException) -> str:
    """For an exception whose message alone may say little, or nothing."""
    kind, message = type(error).__name__, one_line(error)
    return kind if message == kind else f"{kind}: {message}"


def release_of(version: str) -> tuple[int, int]:
    """Its first two numbers; (0, 0) for a version that has none."""
    numbers = re.findall(r"\d+", version)
    return (int(numbers[0]), int(numbers[1])) if len(numbers) > 1 else (0, 0)


def not_as_known(library: str, version: str, error: BaseException, what_to_do: str) -> str:
    """The sentence about a version that lacks names which the runtime uses."""
    return f"{library} {version} is not as this runtime knows it ({one_line(error)}); {what_to_do}"


def seed_of_63_bits(seed: int) -> int:
    """For libraries that keep seeds as signed numbers. Larger seeds are hashed, not cut off."""
    if seed < 2**63:
        return seed
    return (seed * 0x9E3779B97F4A7C15 % 2**64) >> 1  # Fibonacci hashing
