"""The demo checkpoint's golden prompts and tokens, and any checkpoint's true logits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from token_engine.interface import Guide

from tests.support.engine_answers import Floats
from tests.support.paths import DEMO, DEMO_CHECKPOINT
from tests.support.runtime_subject import Subject

GOLDEN: dict[str, Any] = json.loads((DEMO / "golden" / "greedy.json").read_text(encoding="utf-8"))
PROMPTS: list[dict[str, Any]] = GOLDEN["prompts"]
ENDS = set(GOLDEN["eos_ids"])
WORDS = [token for prompt in PROMPTS for token in prompt["prompt_ids"] if token not in ENDS]


class Reference(Protocol):
    """A forward pass with its KV cache: `ReferenceLlama`, or one on a GPU."""

    def reset(self) -> None:
        """Forget the sequence."""

    def forward(self, token_ids: Sequence[int]) -> Any:
        """Append tokens; returns their logits, f32 [len(token_ids), vocab]."""


class Truth:
    """The reference's logits; a continued sequence is not computed from its start again."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._known: list[Floats] = []
        self._fed: list[int] = []

    def __call__(self, tokens: Sequence[int]) -> Floats:
        wanted = list(tokens)
        if self._fed[: len(wanted)] != wanted[: len(self._fed)] or len(wanted) < len(self._fed):
            self._reference.reset()
            self._fed, self._known = [], []
        new = wanted[len(self._fed) :]
        if new:
            self._known += list(self._reference.forward(new).astype(np.float64))
            self._fed = wanted
        return self._known[-1]


def words(length: int, seed: int) -> tuple[int, ...]:
    """A stretch of the golden prompts, without end ids."""
    start = (seed * 131) % len(WORDS)
    return tuple((WORDS[start:] + WORDS)[:length])


def without_end(tokens: list[int]) -> list[int]:
    return tokens[:-1] if tokens[-1] in ENDS else tokens


def guides_hold(subject: Subject) -> None:
    """Check each kind of guide with the demo checkpoint's tokenizer."""
    vocabulary = json.loads((DEMO_CHECKPOINT / "tokenizer.json").read_text())
    for opening in ("[", "{"):
        first = vocabulary["model"]["vocab"][opening]
        one = subject.request(
            words(20, 1),
            3,
            end_ids=subject.eos,
            guide=Guide("json"),
            token_bias=((first, 50.0),),
        )
        (answer,) = subject.answer(one)
        assert answer.tokens[:1] == [first], answer
    for kind, text in (("regex", "(yes|no)"), ("json_schema", '{"type": "boolean"}')):
        guide = Guide(kind, text)  # type: ignore[arg-type]
        one = subject.request(words(20, 1), 30, end_ids=subject.eos, guide=guide)
        (answer,) = subject.answer(one)
        assert answer.reason == "stop", answer
