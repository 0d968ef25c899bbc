"""What a worker sends, made once per run: workloads, a recording, over-long prompts."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from command_line.options import OptionError, RunOptions
from traffic.faults import OVER_LONG, Journey
from traffic.mix import REPLAY, WorkloadMix
from traffic.prompts import PromptWriter
from traffic.replay import Recording, read_recording, replay_workload
from traffic.workloads import Conversation, Turn, Workload, make_workload

MOST_HASHED = 256  # conversations; there may be endlessly many


class LoadSource:
    """Raises `OptionError`, `PromptError` or `ReplayError`, one sentence each."""

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._writer = PromptWriter(Path(options.tokenizer))
        self._recording: Recording | None = None
        self._over_long = ""
        shares = options.shares()
        scoped = len(shares) > 1
        workloads = {name: self._workload(name, f"{name}:" if scoped else "") for name in shares}
        for name, workload in workloads.items():
            if not workload.distinct_conversation(0).turns:
                raise OptionError(f"the workload {name!r} has no request")
        self.mix = WorkloadMix(options.seed, shares, workloads)

    def units(self, rate: float) -> Iterator[float] | None:
        """The recorded arrivals, in units of 1 / `rate` seconds, or None without their times."""
        if self._options.arrivals != "trace" or self._recording is None:
            return None
        return (at / self._options.speed * rate for at in self._recording.times)

    @property
    def recorded(self) -> int:
        """Requests of the recording, 0 without one."""
        return len(self._recording.times) if self._recording else 0

    def sha256(self) -> str:
        """The hash of what is sent: prompts, lengths, options, and recorded times.

        It shows whether two runs sent the same: a recording may have been edited, and another
        tokenizer makes other prompts from the same options.
        """
        mix = self.mix
        there_are: Iterator[Conversation] = mix.distinct_conversations()
        if not mix.distinct:
            there_are = map(mix.conversation, range(MOST_HASHED // 8))
        times = self._recording.times if self.units(1.0) and self._recording else ()
        sent = hashlib.sha256(repr(times).encode())
        for conversation in itertools.islice(there_are, MOST_HASHED):
            for turn in conversation.turns:
                parts = (turn.prompt, turn.messages, turn.max_tokens, sorted(turn.options.items()))
                sent.update(repr(parts).encode("utf-8", "surrogatepass"))
        return sent.hexdigest()

    def turns(self, number: int, conversation: Conversation, journey: Journey) -> tuple[Turn, ...]:
        """The conversation's turns as the journey sends them."""
        if journey.name != OVER_LONG:
            return conversation.turns if journey.leave_after is None else conversation.turns[:1]
        if not self._over_long:
            generator = random.Random(f"over_long/{self._options.seed}")
            self._over_long = self._writer.prompt(self._options.over_long_tokens, generator)
        first = conversation.turns[0]
        return (dataclasses.replace(first, key="over_long", prompt=self._over_long, messages=()),)

    def _workload(self, name: str, scope: str) -> Workload:
        options = self._options
        if name == REPLAY:
            self._recording = read_recording(Path(options.replay))
            return replay_workload(self._recording, self._writer, options.seed, scope)
        try:
            return make_workload(options.shape(name), self._writer, scope)
        except ValueError as error:
            raise OptionError(str(error)) from error
