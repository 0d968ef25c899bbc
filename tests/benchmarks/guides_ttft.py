"""Time to first token of an OpenVINO engine: without a guide, with one seen before, with a new one.

    python -m tests.benchmarks.guides_ttft --engine DIR [--rounds 20]

The engine runs as the server runs it, in a process of its own behind `engine_supervisor.py`. The
time counts from submitting a request until its first tokens come. With 8 streams, 7 others generate
meanwhile. Each new guide differs from all before, in a name of the schema.
"""

from __future__ import annotations

import argparse
import itertools
import json
import queue
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import host.room_paths  # noqa: F401
from engine_config import load_engine_config
from engine_supervisor import EngineSupervisor
from token_engine.interface import GenerationRequest, Guide, SamplingParams, TokenDelta

STREAMS = (1, 8)
TOKENS = 8
LONG = 100_000  # tokens of the other streams: they end by being cancelled


class _Collector:
    """An `EngineListener` that notes when each request gets its first tokens."""

    def __init__(self) -> None:
        self.firsts: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()
        self.ends: queue.SimpleQueue[TokenDelta] = queue.SimpleQueue()
        self._seen: set[int] = set()

    def on_deltas(self, deltas: list[TokenDelta]) -> None:
        now = time.perf_counter()
        for delta in deltas:
            if delta.key not in self._seen:
                self._seen.add(delta.key)
                self.firsts.put((delta.key, now))
            if delta.finish_reason is not None:
                self.ends.put(delta)

    def on_engine_lost(self, reason: str) -> None:
        raise RuntimeError(reason)

    def has_open_requests(self) -> bool:
        return False


class _Bench:
    def __init__(self, directory: Path) -> None:
        self._collector = _Collector()
        self._config = load_engine_config(directory)
        self._keys = itertools.count(1)
        quiet: Callable[[str], None] = lambda line: None  # noqa: E731
        self._supervisor = EngineSupervisor(directory, 60.0, self._collector, quiet)
        self._supervisor.start()

    def first_token_ms(self, guide: Guide | None) -> float:
        """Of one request, which is waited for to its end."""
        key = next(self._keys)
        started = time.perf_counter()
        self._supervisor.submit(self._request(key, TOKENS, guide))
        first = 0.0
        while not first:
            found, at = self._collector.firsts.get()
            first = at if found == key else 0.0
        while (delta := self._collector.ends.get()).key != key:
            self._supervisor.submit(self._request(next(self._keys), self._longest(), None))
        assert delta.finish_reason != "error", delta.error
        return (first - started) * 1e3

    def add_streams(self, count: int) -> None:
        """Others that generate; each that ends is followed by another."""
        for _ in range(count):
            self._supervisor.submit(self._request(next(self._keys), self._longest(), None))
            self._collector.firsts.get()

    def stop(self) -> None:
        self._supervisor.stop()

    def _longest(self) -> int:
        return min(LONG, self._config.limits.max_seq_len - TOKENS)

    def _request(self, key: int, tokens: int, guide: Guide | None) -> GenerationRequest:
        ends = tuple(self._config.model.eos_token_ids) if guide else ()
        sampling = SamplingParams(greedy=False, temperature=1.0)
        return GenerationRequest(key, (300, 301, 302), tokens, ends, sampling, guide=guide)


def new_schema(number: int) -> Guide:
    """As people write them: an object with texts, numbers, an enum, a list and a nested object."""
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "status": {"enum": ["new", "paid", "sent"]},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
            "address": {
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
                "required": ["city"],
            },
            f"field_{number}": {"type": "boolean"},
        },
        "required": ["name", "age", "status"],
        "additionalProperties": False,
    }
    return Guide("json_schema", json.dumps(schema))


def main() -> None:
    """Print a table: for each number of streams the median and the worst of each kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", type=Path, required=True, help="as compile_engine.py writes it")
    parser.add_argument("--rounds", type=int, default=20, help="of each kind (20)")
    parser.add_argument("--idle", type=float, default=6, help="seconds before the first guide (6)")
    options = parser.parse_args()
    bench = _Bench(options.engine)
    numbers = itertools.count()
    kinds: dict[str, Callable[[], Guide | None]] = {
        "no guide": lambda: None,
        "a guide seen before": lambda: new_schema(0),
        "a new choice": lambda: Guide("choice", json.dumps([f"a{next(numbers)}", "no"])),
        "a new schema": lambda: new_schema(next(numbers)),
    }
    time.sleep(options.idle)
    first = bench.first_token_ms(new_schema(next(numbers)))
    print(f"the first guide of all, {options.idle:g} s after the engine's start: {first:.0f} ms")
    print("| streams | TTFT in ms of a request with | median | worst |\n|---|---|---|---|")
    for streams in STREAMS:
        bench.add_streams(streams - 1)
        for name, guide in kinds.items():
            times = [bench.first_token_ms(guide()) for _ in range(options.rounds)]
            print(f"| {streams} | {name} | {statistics.median(times):.1f} | {max(times):.1f} |")
    bench.stop()


if __name__ == "__main__":
    main()
