"""The engine process: one runtime, stepped on one thread, fed through a pipe.

Started by `engine_supervisor.py` as `python engine_process.py ENGINE_DIRECTORY FD`. A step holds
the interpreter (OpenVINO GenAI keeps the GIL), so nothing that must answer at once lives here.
It ends on a message to do so, when the pipe closes, or when its parent dies.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from engine_config import EngineConfig, EngineConfigError, load_engine_config
from engine_messages import Cancel, Failed, Loaded, Progress, Ready, Shutdown, StepDone
from parent_death import die_with_parent
from token_engine.interface import (
    EngineLoadError,
    GenerationRequest,
    TokenDelta,
    TokenEngine,
    UnsupportedParameter,
)
from token_engine.registry import make_engine

WARM_UP_KEY = 0  # the room's keys begin at 1
WARM_UP_TOKENS = 2
PROBE_TOKENS = 8
NOT_FINITE = "the model's logits are not finite numbers"
HEARTBEAT_S = 1.0
SETTLE_S = 0.1  # how often to ask an engine without work whether it has freed the last request


def main(engine_directory: Path, connection: Connection) -> int:
    """Load, warm up, then step until told to stop. Returns the process's exit code."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server handles a terminal's Ctrl-C
    try:
        config = load_engine_config(engine_directory)
        engine = _load(engine_directory, config, connection)
    except (EngineLoadError, EngineConfigError) as error:
        connection.send(Failed(str(error)))
        return 1
    try:
        _warm_up(engine, config, connection)
        EngineLoop(engine, connection).run()
    except EngineLoadError as error:
        connection.send(Failed(str(error)))
        return 1
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the server is gone; so is everyone who waited for tokens
    finally:
        engine.shutdown()
    return 0


def _load(engine_directory: Path, config: EngineConfig, connection: Connection) -> TokenEngine:
    started = time.monotonic()
    engine = make_engine(engine_directory, config)
    with contextlib.suppress(BrokenPipeError):  # the server is gone, as the warm-up will see
        connection.send(Progress("engine load", time.monotonic() - started))
        connection.send(Loaded(engine.facts))
    return engine


def _warm_up(engine: TokenEngine, config: EngineConfig, connection: Connection) -> None:
    """Warm the engine up and report that it is ready."""
    started = time.monotonic()
    _generate_once(engine, config)
    engine.prepare()
    connection.send(Progress("warm-up", time.monotonic() - started))
    connection.send(Ready(engine.stats()))


def _generate_once(engine: TokenEngine, config: EngineConfig) -> None:
    """One short generation: a first pass repacks weights, compiles kernels, fills allocators.

    Its prompt fills one prefill chunk where it can, since runtimes prepare each shape once.
    """
    limits = config.limits
    length = max(1, min(limits.max_num_tokens, limits.max_seq_len - WARM_UP_TOKENS))
    prompt = (config.model.bos_token_id,) * length
    request = GenerationRequest(WARM_UP_KEY, prompt, max_tokens=WARM_UP_TOKENS, end_ids=())
    _run_alone(engine, request)
    # NaN yields tokens too, so only a log-probability shows it. It is a separate request, since
    # log-probabilities may take other kernels, with several tokens, since one may be untrained.
    vocab_size = config.model.vocab_size
    several = prompt[:1] + tuple(range(0, vocab_size, -(-vocab_size // PROBE_TOKENS)))
    with contextlib.suppress(UnsupportedParameter):
        _run_alone(engine, replace(request, prompt_ids=several[:length], logprobs=0))


def _run_alone(engine: TokenEngine, request: GenerationRequest) -> None:
    """Run one request to its end; raises `EngineLoadError` or `UnsupportedParameter`."""
    deltas: list[TokenDelta] = []
    try:
        engine.submit(request)
        while engine.has_work:
            deltas += map(checked, engine.step())
    except UnsupportedParameter:
        raise
    except Exception as error:  # each runtime has its own; all of them mean the same here
        raise EngineLoadError(f"the engine's first forward pass failed: {error}") from error
    for delta in deltas:
        if delta.finish_reason == "error":
            raise EngineLoadError(f"the engine's first forward pass failed: {delta.error}")


def checked(delta: TokenDelta) -> TokenDelta:
    """The delta, or the request's end if its log-probabilities are not numbers."""
    for one in delta.logprobs:
        if math.isnan(one.logprob) or any(math.isnan(value) for _, value in one.top):
            return TokenDelta(delta.key, (), "error", NOT_FINITE)
    return delta


class EngineLoop:
    """Alternates between the pipe and the engine; blocks on the pipe while there is no work.

    Before it blocks it reports that the engine is idle: else the server would go on showing the
    counts from before the last request's end.
    """

    def __init__(self, engine: TokenEngine, connection: Connection) -> None:
        self._engine = engine
        self._connection = connection
        self._running = True
        self._last_sent = 0.0
        self._sent_stats = engine.stats()

    def run(self) -> None:
        """Run until a Shutdown message; raises EOFError when the other end closes."""
        while self._running:
            refused = self._obey_messages()
            deltas = self._step() if self._engine.has_work else []
            # A long prefill makes no tokens for many steps; the watchdog must see that it moves.
            overdue = time.monotonic() - self._last_sent > HEARTBEAT_S
            settled = not self._engine.has_work and self._engine.stats() != self._sent_stats
            if deltas or refused or overdue or settled:
                self._last_sent, self._sent_stats = time.monotonic(), self._engine.stats()
                self._connection.send(StepDone(refused + deltas, self._sent_stats))

    def _step(self) -> list[TokenDelta]:
        """One step of all requests; one whose logits are not finite ends alone."""
        made = self._engine.step()
        deltas = [checked(delta) for delta in made]
        for before, after in zip(made, deltas, strict=True):
            if after is not before and before.finish_reason is None:
                self._engine.cancel(before.key)
        return deltas

    def _patience_s(self) -> float | None:
        """How long to wait for a message; None is forever."""
        if self._engine.has_work:
            return 0.0
        return None if self._sent_stats.is_idle else SETTLE_S

    def _obey_messages(self) -> list[TokenDelta]:
        refused: list[TokenDelta] = []
        while self._running and self._connection.poll(0.0 if refused else self._patience_s()):
            message = self._connection.recv()
            if isinstance(message, GenerationRequest):
                try:
                    self._engine.submit(message)
                except UnsupportedParameter as error:
                    refused.append(TokenDelta(message.key, (), "error", str(error), "unsupported"))
            elif isinstance(message, Cancel):
                self._engine.cancel(message.key)
            elif isinstance(message, Shutdown):
                self._running = False
        return refused


if __name__ == "__mp_main__":  # a process that a library has spawned
    die_with_parent()  # else it stays, and keeps the GPU's memory, when this one is killed
if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Connection(int(sys.argv[2]))))
