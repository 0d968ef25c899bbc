"""What a worker sends, made once per run: workload, recorded times, over-long prompts."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

from journeys import OVER_LONG, Journey
from options import OptionError, RunOptions
from prompts import PromptWriter
from replay_file import Recording, read_recording, replay_workload
from workloads import Conversation, Turn, Workload, make_workload


class LoadSource:
    """Raises `OptionError`, `PromptError` or `ReplayError`, one sentence each."""

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._writer = PromptWriter(Path(options.tokenizer))
        self._recording: Recording | None = None
        self._over_long = ""
        self.workload = self._workload()
        conversation = self.workload.distinct_conversation(0)
        if not conversation.turns:
            raise OptionError(f"the workload {options.workload!r} has no request")

    def units(self, rate: float) -> Iterator[float] | None:
        """The recording's own arrivals, in units of which there are `rate` a second; else None."""
        if self._options.arrivals != "trace" or self._recording is None:
            return None
        return (at / self._options.speed * rate for at in self._recording.times)

    def turns(self, number: int, conversation: Conversation, journey: Journey) -> tuple[Turn, ...]:
        """The conversation's turns as the journey sends them."""
        if journey.name != OVER_LONG:
            return conversation.turns if journey.leave_after is None else conversation.turns[:1]
        if not self._over_long:
            generator = random.Random(f"over_long/{self._options.seed}")
            self._over_long = self._writer.prompt(self._options.over_long_tokens, generator)
        first = conversation.turns[0]
        return (dataclasses.replace(first, key="over_long", prompt=self._over_long, messages=()),)

    def _workload(self) -> Workload:
        options = self._options
        if options.replay:
            self._recording = read_recording(Path(options.replay))
            return replay_workload(self._recording, self._writer, options.seed)
        try:
            return make_workload(options.shape(), self._writer)
        except ValueError as error:
            raise OptionError(str(error)) from error
