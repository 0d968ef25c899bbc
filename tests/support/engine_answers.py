"""Steps an engine, of whatever runtime, and collects what its requests get."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from token_engine.interface import GenerationRequest, TokenEngine, TokenLogprob

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass
class Answer:
    """What one request got."""

    tokens: list[int] = dataclasses.field(default_factory=list)
    reason: str = ""
    error: str = ""
    fault: str = ""
    logprobs: list[TokenLogprob] = dataclasses.field(default_factory=list)
    first_scheduled_ns: int = dataclasses.field(default=0, compare=False)


def drain(
    engine: TokenEngine, answers: dict[int, Answer] | None = None, most_steps: int = 100_000
) -> dict[int, Answer]:
    """Step until there is no more work; fails when a request hangs or ends twice."""
    answers = {} if answers is None else answers
    for _ in range(most_steps):
        if not engine.has_work:
            return answers
        collect(engine.step(), answers)
    raise AssertionError(f"still at work after {most_steps} steps")


def collect(deltas: Iterable[Any], answers: dict[int, Answer]) -> None:
    """Add one step's deltas to the answers."""
    for delta in deltas:
        answer = answers.setdefault(delta.key, Answer())
        assert not answer.reason, f"request {delta.key} got a delta after its last one"
        answer.tokens += delta.token_ids
        answer.reason = delta.finish_reason or ""
        answer.error = delta.error
        answer.fault = delta.fault if delta.finish_reason == "error" else ""
        answer.logprobs += delta.logprobs
        assert delta.finish_reason or not delta.first_scheduled_ns
        answer.first_scheduled_ns = delta.first_scheduled_ns


def generate(engine: TokenEngine, *requests: GenerationRequest) -> dict[int, Answer]:
    """Submit all at once and step to the end."""
    for one in requests:
        engine.submit(one)
    return drain(engine)
