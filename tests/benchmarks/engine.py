"""An engine without a server around it: what the benchmark compares the server with."""

from __future__ import annotations

import queue
import time
from pathlib import Path

import host.room_paths  # noqa: F401
from engine_config import load_engine_config
from engine_supervisor import EngineSupervisor
from token_engine.interface import (
    GenerationRequest,
    SamplingParams,
    TokenDelta,
    TokenEngine,
)
from token_engine.registry import make_engine

TOKENS = 200
PIPE_TOKENS = 5000


def bare_tokens_per_second(repository: Path, count: int) -> float:
    """Tokens per second of `count` sequences, stepping the engine in this process."""
    engine = _engine(repository)
    try:
        _run(engine, _requests(count, TOKENS, 1))  # shapes seen for the first time cost more
        started = time.perf_counter()
        tokens = _run(engine, _requests(count, TOKENS, 1 + count))
        return tokens / (time.perf_counter() - started)
    finally:
        engine.shutdown()


def pipe_microseconds(repository: Path, count: int) -> tuple[float, float]:
    """(in this process, through the engine process): microseconds per token of a replay engine."""
    engine = _engine(repository)
    started = time.perf_counter()
    tokens = _run(engine, _requests(count, PIPE_TOKENS, 1))
    inside = (time.perf_counter() - started) / tokens
    engine.shutdown()
    listener = _Collector()
    supervisor = EngineSupervisor(_engine_directory(repository), 60.0, listener, lambda line: None)
    supervisor.start()
    started = time.perf_counter()
    for request in _requests(count, PIPE_TOKENS, 1):
        supervisor.submit(request)
    listener.wait_for(count)
    outside = (time.perf_counter() - started) / tokens
    supervisor.stop()
    return inside * 1e6, outside * 1e6


class _Collector:
    """An `EngineListener` that counts finished requests."""

    def __init__(self) -> None:
        self._finished: queue.SimpleQueue[int] = queue.SimpleQueue()

    def on_deltas(self, deltas: list[TokenDelta]) -> None:
        for delta in deltas:
            if delta.finish_reason is not None:
                self._finished.put(delta.key)

    def on_engine_lost(self, reason: str) -> None:
        raise RuntimeError(reason)

    def has_open_requests(self) -> bool:
        return False

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            self._finished.get()


def _engine_directory(repository: Path) -> Path:
    return repository / "tensorrt_llm" / "1" / "engine"


def _engine(repository: Path) -> TokenEngine:
    directory = _engine_directory(repository)
    return make_engine(directory, load_engine_config(directory))


def _requests(count: int, tokens: int, first_key: int) -> list[GenerationRequest]:
    sampling = SamplingParams(greedy=False, temperature=1.0)  # no seed: not every sampler keeps one
    return [
        GenerationRequest(first_key + index, (index + 300, 301, 302), tokens, (), sampling)
        for index in range(count)
    ]


def _run(engine: TokenEngine, requests: list[GenerationRequest]) -> int:
    for request in requests:
        engine.submit(request)
    tokens = 0
    while engine.has_work:
        tokens += sum(len(delta.token_ids) for delta in engine.step())
    return tokens
