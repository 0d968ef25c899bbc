"""Workloads: what the requests are like.

A workload makes an arrival (prompt, lengths, turns) from the seed and the arrival's number alone,
so it is the same on every worker and in every run with that seed.
"""

from __future__ import annotations

import dataclasses
import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from traffic.prompts import MOST_TOKENS, PromptWriter

# cnn_dailymail's articles as MLPerf's llama3.1-8b has them: the middle length, the spread of its
# logarithm, and the longest.
ARTICLE_MEDIAN, ARTICLE_SIGMA, ARTICLE_MIN, ARTICLE_MAX = 780, 0.5, 64, 2540
MLPERF_OUTPUT = 128
MLPERF_SLOS = {
    "mlperf-server": "ttft:p99<2000ms,tpot:p99<100ms",
    "mlperf-interactive": "ttft:p99<500ms,tpot:p99<30ms",
}
DEFAULT_SLOS = MLPERF_SLOS["mlperf-server"]
FIXED = re.compile(r"(\d+)/(\d+)")
NORMAL_SPREAD = 0.25  # standard deviation of a normal length, of its mean
DEFAULT_INPUT, DEFAULT_OUTPUT = 128, 128
NOT_OPTIONS = ("prompt", "max_tokens", "request_id")  # of the client's arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request. `key` names its prompt: the same key, the same prompt and options."""

    key: str
    prompt: str = ""  # raw text, or for a chat what the user says in this turn
    messages: tuple[Mapping[str, str], ...] = ()  # a recording's, in place of a prompt
    max_tokens: int
    options: Mapping[str, Any]
    think_s: float = 0.0  # between the answer before and this


@dataclass(frozen=True, slots=True)
class Conversation:
    """An arrival: one turn, or a chat's turns, each with the history before it."""

    turns: tuple[Turn, ...]
    chat: bool = False
    workload: str = ""  # the workload's name


@dataclass(frozen=True, slots=True)
class Workload:
    """`conversation(number)` for any number; made by `make_workload`.

    `scope` makes the keys and prompts of a mix's workloads differ: prompts that begin alike would
    hit the server's prefix cache.
    """

    name: str
    seed: int
    distinct: int  # number of different conversations; 0: every arrival has its own
    make: Callable[[int, random.Random], Conversation]
    in_order: bool = False  # a recording: the number is the index, nothing is drawn
    scope: str = ""

    def conversation(self, number: int) -> Conversation:
        """The arrival's conversation; numbers start at 0."""
        if self.distinct and self.in_order:
            number %= self.distinct
        elif self.distinct:
            # Drawn, not in turns: with N workers each would get its own texts.
            number = random.Random(f"prompt/{self.seed}/{number}").randrange(self.distinct)
        return self.distinct_conversation(number)

    def distinct_conversation(self, index: int) -> Conversation:
        """The index-th of the different conversations."""
        made = self.make(index, random.Random(f"text/{self.seed}/{self.scope}{index}"))
        turns = made.turns
        if self.scope:
            turns = tuple(dataclasses.replace(turn, key=self.scope + turn.key) for turn in turns)
        return Conversation(turns, made.chat, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The options that define a workload."""

    name: str
    seed: int = 0
    distinct: int = 32
    max_input: int = 0  # tokens; longer prompts are cut; 0: no limit
    normal_lengths: bool = False
    prefix_tokens: int = 0
    turns: int = 3
    think_s: float = 2.0
    options: Mapping[str, Any] | None = None


def default_slos(workload: str) -> str:
    """The SLOs of a run of that workload without --slo."""
    slos = MLPERF_SLOS.get(workload, DEFAULT_SLOS)
    # With one token there is no time between tokens: an SLO on it could not hold.
    return slos.split(",")[0] if workload.endswith("/1") else slos


def workload_names() -> str:
    """For help texts and errors."""
    return "mlperf-server, mlperf-interactive, IN/OUT (as in 128/128), chat, shared-prefix"


def make_workload(shape: Shape, writer: PromptWriter, scope: str = "") -> Workload:
    """Raises ValueError for an unknown name."""
    greedy = {"ignore_eos": True} if FIXED.fullmatch(shape.name) else {}
    options = {**greedy, **(shape.options or {})}
    make = _maker(shape, writer, options)
    return Workload(shape.name, shape.seed, shape.distinct, make, scope=scope)


def _maker(
    shape: Shape, writer: PromptWriter, options: Mapping[str, Any]
) -> Callable[[int, random.Random], Conversation]:
    def single(index: int, prompt: str, max_tokens: int) -> Conversation:
        key = f"{index}"
        return Conversation((Turn(key=key, prompt=prompt, max_tokens=max_tokens, options=options),))

    def article(index: int, generator: random.Random) -> Conversation:
        length = generator.lognormvariate(math.log(ARTICLE_MEDIAN), ARTICLE_SIGMA)
        tokens = _cut(round(min(max(length, ARTICLE_MIN), ARTICLE_MAX)), shape)
        return single(index, writer.prompt(tokens, generator), MLPERF_OUTPUT)

    def lengths(index: int, generator: random.Random) -> Conversation:
        match = FIXED.fullmatch(shape.name)
        assert match is not None
        wanted = [int(match[1]), int(match[2])]
        if shape.normal_lengths:
            wanted = [max(round(generator.gauss(n, n * NORMAL_SPREAD)), 2) for n in wanted]
        return single(index, writer.prompt(_cut(wanted[0], shape), generator), wanted[1])

    def shared_prefix(index: int, generator: random.Random) -> Conversation:
        own = random.Random(f"prefix/{shape.seed}")
        prefix = writer.prompt(_cut(shape.prefix_tokens or 8 * DEFAULT_INPUT, shape), own)
        return single(index, prefix + writer.text(DEFAULT_INPUT, generator), DEFAULT_OUTPUT)

    def chat(index: int, generator: random.Random) -> Conversation:
        return Conversation(_chat_turns(index, shape, writer, options, generator), chat=True)

    if FIXED.fullmatch(shape.name):
        _check_lengths(shape.name)
        return lengths
    makers = {
        "mlperf-server": article,
        "mlperf-interactive": article,
        "chat": chat,
        "shared-prefix": shared_prefix,
    }
    if shape.name not in makers:
        raise ValueError(f"the workload must be one of {workload_names()}, not {shape.name!r}")
    return makers[shape.name]


def _chat_turns(
    index: int,
    shape: Shape,
    writer: PromptWriter,
    options: Mapping[str, Any],
    generator: random.Random,
) -> tuple[Turn, ...]:
    turns = []
    for turn in range(shape.turns):
        words = writer.text(max(round(generator.gauss(48, 16)), 4), generator).strip()
        think = generator.expovariate(1 / shape.think_s) if turn and shape.think_s else 0.0
        turns.append(
            Turn(key=f"{index}/{turn}", prompt=words, max_tokens=64, options=options, think_s=think)
        )
    return tuple(turns)


def _check_lengths(name: str) -> None:
    prompt, output = (int(each) for each in name.split("/"))
    if not prompt or not output or prompt > MOST_TOKENS:
        raise ValueError(
            f"the workload must have lengths of at least 1, and a prompt of at most "
            f"{MOST_TOKENS:,} tokens, not {name!r}"
        )


def _cut(tokens: int, shape: Shape) -> int:
    return min(tokens, shape.max_input) if shape.max_input else tokens
