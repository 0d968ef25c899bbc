"""How far each worker's wall clock is from the master's, so that all start at the same moment.

Workers on other hosts have their own clocks, whose difference would shift their arrivals and their
measured window. The master asks each for its time several times and keeps the fastest answer: the
offset is wrong by at most half the round trip (Cristian's algorithm, 1989). Latencies do not need
it: each comes from one worker's monotonic clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import gevent

CLOCK, CLOCK_TOLD = "llama_clock", "llama_clock_told"
TRIES = 5
ANSWER_S = 5.0  # a silent worker keeps its own clock
POLL_S = 0.001
TOLD_FROM_S = 0.1  # smaller offsets are not reported


@dataclass(frozen=True, slots=True)
class Offset:
    """Seconds that a worker's clock is ahead of the master's, and the error bound."""

    seconds: float
    within: float

    @classmethod
    def of(cls, asked: float, told: float, heard: float) -> Offset:
        """From one question: `asked` and `heard` by the master's clock, `told` by the worker's."""
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
        """Worker id -> its clock's offset; a worker that does not answer is left out.

        `workers()` returns those alive, so that no dead one is waited for.
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
    """The report's sentence on a clock that is far off, else ""."""
    if abs(offset.seconds) < TOLD_FROM_S:
        return ""
    way = "ahead of" if offset.seconds > 0 else "behind"
    return (
        f"worker {name}'s clock is {abs(offset.seconds):.2g} s {way} the master's; the schedule "
        "allows for it"
    )
