"""What vLLM's EngineCore and SGLang's scheduler have in common: a thread that batches requests.

The model is `model_logits`, a function of the last tokens, so that every test can compute the right
tokens. Each step prefills up to `max_num_tokens` tokens and makes one token for every request whose
prompt is done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.libraries.spawned import note_shutdown

BLOCK_TOKENS = 16
BLOCKS = 1000

Logprobs = dict[int, float] | None
Choose = Callable[[Sequence[int]], tuple[int, Logprobs]]  # of the output so far


@dataclass
class Behaviour:
    """How the fake misbehaves, and how fast it is."""

    step_seconds: float = 0.0
    die_at_step: int = 0
    hang_at_step: int = 0  # it stops without a sign
    fail: dict[int, int] = field(default_factory=dict)  # first prompt id -> after so many tokens
    nan: dict[int, int] = field(default_factory=dict)  # likewise: its logits are then not numbers
    trouble: dict[int, Exception] = field(default_factory=dict)  # first prompt id -> at its start
    hang_on_shutdown: bool = False
    shutdown_seconds: float = 0.0
    notes_shutdown: str = ""  # a file that gets a line for each
    spawns: str = ""  # a file for the pid of a process that is spawned, as the libraries do
    capability: tuple[int, int] | None = (10, 0)  # None: there is no GPU
    gpus: int = 1


@dataclass(eq=False)
class Work:
    """One request in the worker."""

    key: str
    prompt: list[int]
    max_tokens: int
    stop_ids: frozenset[int]
    choose: Choose
    emit: Callable[[Emission], None]
    priority: int = 0
    seeded: bool = False
    output: list[int] = field(default_factory=list)
    prefilled: int = 0
    scheduled_at: float = 0.0  # of the steady clock


@dataclass(frozen=True)
class Emission:
    """What one step made for one request."""

    work: Work
    token: int | None
    logprobs: Logprobs = None
    finish: str = ""  # "stop", "length", "error", "abort", "nan"


class Worker:
    """Started at once; `on_step` is called after each step, `on_death` at its end."""

    def __init__(
        self,
        max_batch_size: int,
        max_num_tokens: int,
        max_seq_len: int,
        how: Behaviour,
        chunks: bool = True,
    ) -> None:
        self._chunks = chunks  # whether a prompt may be computed in several steps
        self._limits = (max_batch_size, max_num_tokens, max_seq_len)
        self._how = how
        self._lock = threading.Condition()
        self._waiting: list[Work] = []
        self._active: list[Work] = []
        self._stopping = False
        self._steps = 0
        self.dead = False
        self.most_active = 0
        self.hit_rate = 0.5  # of the prefix cache
        self.tokens_prefilled = 0
        self.on_step: Callable[[], None] = lambda: None
        self.on_death: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> None:
        with self._lock:
            self._waiting.append(work)
            self._lock.notify()

    def abort(self, key: str) -> Work | None:
        """Take it out at once; None if it is not there."""
        with self._lock:
            for queue in (self._waiting, self._active):
                for work in queue:
                    if work.key == key:
                        queue.remove(work)
                        return work
        return None

    def shutdown(self) -> None:
        note_shutdown(self._how.notes_shutdown)
        if self._how.hang_on_shutdown:
            time.sleep(3600)
        time.sleep(self._how.shutdown_seconds)
        with self._lock:
            self._stopping = True
            self._lock.notify()
        self._thread.join()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    @property
    def counts(self) -> tuple[int, int]:
        """(active, waiting)"""
        with self._lock:
            return len(self._active), len(self._waiting)

    @property
    def tokens_held(self) -> int:
        return sum(work.prefilled + len(work.output) for work in list(self._active))

    @property
    def blocks_used(self) -> int:
        return sum(
            -(-(work.prefilled + len(work.output)) // BLOCK_TOKENS) for work in list(self._active)
        )

    def _work(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting or self._active or self._stopping)
                if self._stopping:
                    return
                self._steps += 1
                if self._how.hang_at_step and self._steps >= self._how.hang_at_step:
                    return
                if self._how.die_at_step and self._steps >= self._how.die_at_step:
                    break
                emissions = self._step()
            for emission in emissions:
                emission.work.emit(emission)
            self.on_step()
            time.sleep(self._how.step_seconds)
        self.dead = True
        self.on_death()

    def _step(self) -> list[Emission]:
        batch, budget, longest = self._limits
        while self._waiting and len(self._active) < batch:
            work = min(self._waiting, key=lambda one: one.priority)
            self._waiting.remove(work)
            work.scheduled_at = time.monotonic()
            self._active.append(work)
        self.most_active = max(self.most_active, len(self._active))
        emissions = []
        for work in list(self._active):
            if work.prefilled < len(work.prompt):
                missing = len(work.prompt) - work.prefilled
                chunk = min(budget, missing)
                if chunk < missing and not self._chunks:
                    continue
                if chunk < missing and work.seeded and self._how.capability is None:
                    self._how.die_at_step = self._steps + 1  # as vLLM's worker does on a CPU
                work.prefilled += chunk
                self.tokens_prefilled += chunk
                budget -= chunk
            if work.prefilled == len(work.prompt):
                emissions.append(self._advance(work, longest))
        return emissions

    def _advance(self, work: Work, longest: int) -> Emission:
        token, logprobs = work.choose(work.output)
        work.output.append(token)
        after = self._how.fail.get(work.prompt[0], -1)
        finish = ""
        if after == len(work.output):
            finish = "error"
        elif self._how.nan.get(work.prompt[0]) == len(work.output):
            finish = "nan"
        elif token in work.stop_ids:
            finish = "stop"
        elif len(work.output) >= work.max_tokens or len(work.prompt) + len(work.output) >= longest:
            finish = "length"
        if finish:
            self._active.remove(work)
        return Emission(work, None if finish == "error" else token, logprobs, finish)


def emit_on(loop: Any, put: Callable[[Emission], None]) -> Callable[[Emission], None]:
    """From the worker's thread to an asyncio loop; a loop that has ended gets nothing any more."""

    def emit(emission: Emission) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(put, emission)

    return emit
