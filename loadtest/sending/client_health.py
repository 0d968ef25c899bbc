"""Watches this process while it loads: CPU time, and how late the event loop wakes."""

from __future__ import annotations

import asyncio
import time

from figures.validity import WorkerHealth

from sending.request import Clock

TICK_S = 0.02
SAMPLE_S = 1.0


class HealthSampler:
    """Counts from the end of the warm-up until `stop`."""

    def __init__(self, name: str, clock: Clock, from_s: float) -> None:
        self.name = name
        self.tokens = 0  # received since the last sample
        self._clock = clock
        self._from_s = from_s
        self._health = WorkerHealth()
        self._stopped = False

    async def run(self) -> None:
        """Sample until `stop`."""
        while self._clock.now() < self._from_s and not self._stopped:
            await asyncio.sleep(TICK_S)
        wall, cpu, self.tokens = time.perf_counter(), time.thread_time(), 0
        while not self._stopped:
            asked = time.perf_counter()
            await asyncio.sleep(TICK_S)
            now = time.perf_counter()
            self._health.loop_lag.add(now - asked - TICK_S)
            if now - wall >= SAMPLE_S:
                # This thread's time: the event loop cannot use more than one core.
                used = time.thread_time()
                self._health.sample(used - cpu, now - wall, self.tokens)
                wall, cpu, self.tokens = now, used, 0

    def stop(self) -> None:
        """Stop counting: the drain begins."""
        self._stopped = True

    def collect(self) -> WorkerHealth:
        """The figures since the last call."""
        health, self._health = self._health, WorkerHealth()
        return health
