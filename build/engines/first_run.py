"""Runs an engine once as the server will: in its own process, warmed up, with a full batch.

So what a GPU runtime prepares at its first requests (tuned kernels, CUDA graphs, the KV cache) is
known to work and to fit in memory before the engine counts as built.
"""

from __future__ import annotations

import queue
import time
from pathlib import Path

import host.room_paths  # noqa: F401
from engine_supervisor import EngineSupervisor
from host.console import BuildError, Phase, say
from token_engine.interface import EngineLoadError, GenerationRequest, TokenDelta

from engines.engine_json import load_engine_config

PROMPT_TOKENS = 16
OUTPUT_TOKENS = 32


class _Collector:
    """The supervisor's listener: puts its events into a queue."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[list[TokenDelta] | str] = queue.SimpleQueue()
        self.open = False

    def on_deltas(self, deltas: list[TokenDelta]) -> None:
        self.events.put(deltas)

    def on_engine_lost(self, reason: str) -> None:
        self.events.put(reason)

    def has_open_requests(self) -> bool:
        return self.open


def prove_engine(folder: Path) -> None:
    """Load the engine in `folder`, fill its batch once, end it; raises `BuildError`."""
    config = load_engine_config(folder)
    collector = _Collector()
    supervisor = EngineSupervisor(
        folder, config.limits.hang_timeout_s, collector, say, config.engine_python
    )
    try:
        with Phase("first run: loading, tuning, CUDA graphs"):
            supervisor.start()
        started = time.monotonic()
        tokens = _fill_batch(supervisor, collector, folder)
        seconds = time.monotonic() - started
        say(
            f"first run: {config.limits.max_batch_size} sequences at once, {tokens} tokens, "
            f"{tokens / max(seconds, 1e-9):.0f} tokens/s; {supervisor.stats.kv_blocks_total} "
            "KV blocks"
        )
    except EngineLoadError as error:
        raise BuildError(f"the engine does not run: {error}") from None
    finally:
        supervisor.stop()


def _fill_batch(supervisor: EngineSupervisor, collector: _Collector, folder: Path) -> int:
    config = load_engine_config(folder)
    limits, model = config.limits, config.model
    length = max(1, min(PROMPT_TOKENS, limits.max_seq_len - 1))
    wanted = min(OUTPUT_TOKENS, limits.max_seq_len - length)
    collector.open = True
    for key in range(1, limits.max_batch_size + 1):
        # Different prompts, so that none is in the prefix cache.
        prompt = (model.bos_token_id, *((key + i) % model.vocab_size for i in range(length - 1)))
        supervisor.submit(GenerationRequest(key, prompt, wanted, end_ids=()))
    waiting, tokens = limits.max_batch_size, 0
    while waiting:
        event = collector.events.get()
        if isinstance(event, str):
            raise BuildError(f"the engine does not run: {event}")
        for delta in event:
            if delta.finish_reason == "error":
                raise BuildError(f"the engine does not run: {delta.error}")
            tokens += len(delta.token_ids)
            waiting -= delta.finish_reason is not None
    collector.open = False
    return tokens
