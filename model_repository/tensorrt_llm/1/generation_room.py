"""Room 2: token ids -> token ids. Admits requests, runs them on the engine, answers them.

It knows neither prompt text nor Triton. A request comes with a `Reply`, through which it gets its
responses; exactly one of them is final. Three kinds of threads meet here: Triton's (submit), the
supervisor's (tokens, loss of the engine) and the senders', which alone write to replies, so that
a slow write never holds up another request's tokens.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Set
from pathlib import Path

from engine_config import load_engine_config
from engine_supervisor import EngineSupervisor
from request_inputs.generation import GenerationInputs
from request_inputs.rows import EngineUnavailable, InvalidRequest
from request_sequences import Reply, Request, Sequence, make_request
from response_outputs.text import load_token_bytes
from serve_signals import DrainRequest
from token_engine.interface import EngineStats, FinishReason, TokenDelta

SHUTTING_DOWN = "the server is shutting down"
CANCEL_POLL_S = 0.1  # as upstream's cancellation_check_period_ms


class GenerationRoom:
    """Start with `open()`, end with `close()`."""

    def __init__(self, engine_directory: Path, log: Callable[[str], None]) -> None:
        self.config = load_engine_config(engine_directory)
        self._log = log
        self._token_bytes = load_token_bytes(engine_directory)
        self._supervisor = EngineSupervisor(
            engine_directory,
            self.config.limits.hang_timeout_s,
            self,
            log,
            self.config.engine_python,
        )
        self._requests: dict[int, Request] = {}  # by their key, while a sequence is in the engine
        self._sequences: dict[int, Sequence] = {}  # in the engine, by their key
        self._next_key = 1  # 0 is the warm-up's
        self._changed = threading.Condition()  # guards the above and the sender's queue
        self._to_send: deque[Sequence] = deque()
        self._sending = False  # whether the sender writes a response now
        self._closing = threading.Event()
        self._drain = DrainRequest()
        self._draining = False
        self._threads = [
            threading.Thread(target=self._send_all, name="reply-sender", daemon=True),
            threading.Thread(target=self._watch, name="cancel-watch", daemon=True),
        ]

    def open(self) -> None:
        """Start the engine and wait until it is warm; raises `EngineLoadError`."""
        self._supervisor.start()
        self._drain.open()
        for thread in self._threads:
            thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether the engine takes requests: neither dead nor hung nor restarting."""
        return self._supervisor.ready

    def close(self) -> None:
        """Stop the engine. Requests still open are answered with an error."""
        self._supervisor.stop()
        self.on_engine_lost(SHUTTING_DOWN)
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def engine_stats(self) -> EngineStats:
        """The engine's own numbers, as of its last step."""
        return self._supervisor.stats

    def engine_facts(self) -> dict[str, str]:
        """What the engine settled when it was loaded."""
        return self._supervisor.facts

    def submit(
        self,
        rows: list[GenerationInputs],
        reply: Reply,
        ids: Set[str] = frozenset(),
        one_response: bool = False,
    ) -> None:
        """Admit a request, or raise `EngineUnavailable` and use no reply.

        Raises `InvalidRequest` for more sequences than are ever admitted.
        """
        with self._changed:
            self._check_room_for(sum(row.num_sequences for row in rows))
            request = make_request(
                self._next_key, ids, reply, rows, self._token_bytes, one_response
            )
            self._next_key += len(request.sequences)
            for sequence in request.sequences:
                # Inside the lock, so that a cancel cannot reach the engine before its request.
                work = sequence.engine_request(self.config.model.eos_token_ids)
                if not self._supervisor.submit(work):
                    self._forget(request)
                    raise EngineUnavailable(
                        "the engine is being restarted; try again in a few seconds"
                    )
                self._sequences[sequence.key] = sequence
            self._requests[request.key] = request

    def _check_room_for(self, wanted: int) -> None:
        if self._draining:
            raise EngineUnavailable(SHUTTING_DOWN)
        limits = self.config.limits
        most = limits.max_batch_size + limits.max_queue_size
        places = f"{limits.max_batch_size} running and {limits.max_queue_size} queued"
        if wanted > most:
            raise InvalidRequest(
                f"the batch and num_return_sequences make {wanted} sequences "
                f"and must make at most {most}: {places}"
            )
        if len(self._sequences) + wanted > most:
            raise EngineUnavailable(
                f"Exceeds maximum queue size: {len(self._sequences)} sequences are in flight "
                f"and the request has {wanted} more, with places for {places}; try again later"
            )

    def cancel(self, key: int) -> None:
        """End a request with finish reason "cancelled"; an unknown or ended one is no error."""
        with self._changed:
            request = self._requests.get(key)
            for sequence in request.sequences if request else ():
                self._end(sequence, "cancelled")
            self._changed.notify()

    def cancel_id(self, client_id: str) -> None:
        """End every request to which a client gave that id."""
        with self._changed:
            for key, request in list(self._requests.items()):
                if client_id in request.ids:
                    self.cancel(key)

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a sequence that is still in the engine, and answer it."""
        if self._leave(sequence):
            sequence.end(reason)
            self._supervisor.cancel(sequence.key)
            self._enqueue_if_due(sequence)

    def _leave(self, sequence: Sequence) -> bool:
        """Take a sequence off the lists. Returns whether it was there."""
        was_there = self._sequences.pop(sequence.key, None) is not None
        request = sequence.request
        if not any(other.key in self._sequences for other in request.sequences):
            self._requests.pop(request.key, None)
        return was_there

    def _forget(self, request: Request) -> None:
        """Drop what a request has in the engine, and answer nothing more."""
        for sequence in request.sequences:
            if self._leave(sequence):
                self._supervisor.cancel(sequence.key)

    # Called by the supervisor's thread.

    def on_deltas(self, deltas: list[TokenDelta]) -> None:
        """Add one step's tokens to their sequences."""
        with self._changed:
            for delta in deltas:
                sequence = self._sequences.get(delta.key)
                if sequence is not None:  # else it ended here while its tokens were on their way
                    self._add_delta(sequence, delta)
            self._changed.notify()

    def _add_delta(self, sequence: Sequence, delta: TokenDelta) -> None:
        if sequence.add_delta(delta):
            self._supervisor.cancel(delta.key)
        if sequence.finish_reason is not None:
            self._leave(sequence)
        self._enqueue_if_due(sequence)

    def on_engine_lost(self, reason: str) -> None:
        """Fail whatever was in the engine."""
        with self._changed:
            for sequence in self._sequences.values():
                sequence.finish_reason, sequence.failure = "error", (reason, "UNAVAILABLE")
                self._enqueue_if_due(sequence)
            self._sequences.clear()
            self._requests.clear()
            self._changed.notify()

    def has_open_requests(self) -> bool:
        """Whether the engine owes anyone a token."""
        return bool(self._sequences)

    # The sender's thread. There is one, so that a request's responses keep their order.

    def _enqueue_if_due(self, sequence: Sequence) -> None:
        """Give a sequence to the sender if a response is due, unless the sender has it."""
        if sequence.has_to_say and not sequence.queued:
            sequence.queued = True
            self._to_send.append(sequence)

    def _send_all(self) -> None:
        while (sequence := self._next_sequence()) is not None:
            try:
                self._answer(sequence)
            except Exception as error:  # whatever Triton raises, the other requests go on
                self._log(f"a response could not be sent ({error}); its request is given up")
                self._give_up(sequence.request)
            self._sending = False

    def _give_up(self, request: Request) -> None:
        with self._changed:
            request.failed = True
            self._forget(request)

    def _next_sequence(self) -> Sequence | None:
        with self._changed:
            self._changed.wait_for(lambda: self._to_send or self._closing.is_set())
            self._sending = bool(self._to_send)
            return self._to_send.popleft() if self._to_send else None

    def _answer(self, sequence: Sequence) -> None:
        """Send what a sequence has made since its last response, as one response."""
        request = sequence.request
        with self._changed:
            sequence.queued = False
            if request.failed:  # because of another of its sequences
                return
            if sequence.finish_reason == "error":
                request.failed = True
                self._forget(request)
            else:
                due = request.sequences if request.one_response else [sequence]
                responses = [one.unsent for one in due if one.unsent is not None]
                for one in due:
                    one.unsent = None
                    request.unanswered -= one.finish_reason is not None
        if request.failed:
            request.reply.fail(*sequence.failure)
        else:
            request.reply.send(responses, final=request.unanswered == 0)

    # The watching thread.

    def _watch(self) -> None:
        while not self._closing.wait(CANCEL_POLL_S):
            self._watch_cancels()
            self._watch_deadlines()
            if self._drain.is_asked() and self._is_drained():
                self._drain.confirm()
                # Now, because Triton may never do it: serve_signals.py explains why.
                self._drain.tell_end(by_itself=self._supervisor.stop())
                return

    def _watch_cancels(self) -> None:
        with self._changed:
            requests = list(self._requests.items())
        for key, request in requests:
            try:
                if request.reply.cancelled():
                    self.cancel(key)
            except Exception as error:  # as above
                self._log(f"a request could not be asked whether it is cancelled ({error})")

    def _watch_deadlines(self) -> None:
        now = time.monotonic()
        with self._changed:
            for sequence in list(self._sequences.values()):
                if now > sequence.deadline:
                    self._end(sequence, "timeout")
            self._changed.notify()

    def _is_drained(self) -> bool:
        if self._drain.is_overdue():
            self.on_engine_lost(SHUTTING_DOWN)
        with self._changed:
            self._draining = True
            return not self._sequences and not self._to_send and not self._sending
