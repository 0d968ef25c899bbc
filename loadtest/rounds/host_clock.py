"""How far each worker's wall clock is from the master's, so that a plan begins at one moment.

Workers on other hosts have clocks of their own, and seconds between them would move their arrivals
and their measured window. The master asks each for its time, and takes the answer that came back
soonest: the offset is wrong by half its way there and back at most (Cristian's algorithm, 1989).
Latencies do not need it: each is of one worker's monotonic clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import gevent

CLOCK, CLOCK_TOLD = "llama_clock", "llama_clock_told"
TRIES = 5
ANSWER_S = 5.0  # a worker that says nothing keeps its own clock
POLL_S = 0.001
TOLD_FROM_S = 0.1  # an offset below it is nobody's concern


@dataclass(frozen=True, slots=True)
class Offset:
    """Seconds that a worker's clock is ahead of the master's, and what that may be off by."""

    seconds: float
    within: float

    @classmethod
    def of(cls, asked: float, told: float, heard: float) -> Offset:
        """Of one question: asked and heard by the master's clock, told by the worker's."""
        return cls(told - (asked + heard) / 2, (heard - asked) / 2)


class HostClocks:
    """The master's side. `offsets()` asks all workers at once, several times."""

    def __init__(self, runner: Any) -> None:
        self._told: dict[str, Offset] = {}
        self._heard: set[str] = set()
        runner.register_message(CLOCK_TOLD, self._on_told)

    def offsets(
        self,
        workers: Callable[[], Iterable[str]],
        send: Callable[[str, dict[str, Any], str], None],
    ) -> dict[str, Offset]:
        """Worker id -> its clock's offset; one that does not answer is left out.

        `workers()` are those that live: nobody waits for one that has died meanwhile.
        """
        self._told = {}
        for _ in range(TRIES):
            self._heard = set()
            asked = set(workers())
            for worker in asked:
                send(CLOCK, {"asked": time.time()}, worker)
            deadline = time.monotonic() + ANSWER_S
            while asked & set(workers()) - self._heard and time.monotonic() < deadline:
                gevent.sleep(POLL_S)
        return dict(self._told)

    def _on_told(self, environment: Any, msg: Any, **_: Any) -> None:
        worker = msg.data["id"]
        offset = Offset.of(msg.data["asked"], msg.data["told"], time.time())
        self._heard.add(worker)
        if worker not in self._told or offset.within < self._told[worker].within:
            self._told[worker] = offset


def clock_note(name: str, offset: Offset) -> str:
    """For the report, of a clock that somebody should set; else ""."""
    if abs(offset.seconds) < TOLD_FROM_S:
        return ""
    way = "ahead of" if offset.seconds > 0 else "behind"
    return f"worker {name}'s clock is {abs(offset.seconds):.2g} s {way} the master's: allowed for"
