"""Room 2: token ids -> token ids. Admits requests, runs them on the engine, answers them.

It knows no prompt text and no Triton. A request comes with a `Reply`, through which it gets its
responses; exactly one of them is final. Three kinds of threads meet here: Triton's (submit), the
supervisor's (tokens, loss of the engine) and the senders', which alone write to replies, so that
a slow write never stops another request's tokens from being taken.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from drain_request import DrainRequest
from engine_config import EngineConfigError, load_engine_config
from engine_supervisor import EngineSupervisor
from generation_inputs import EngineUnavailable, GenerationInputs
from output_text import OutputText, TextSpan, TokenBytes
from token_engine.interface import FinishReason, GenerationRequest, TokenDelta

SHUTTING_DOWN = "the server is shutting down"
CANCEL_POLL_S = 0.1  # as upstream's cancellation_check_period_ms


@dataclass(frozen=True, slots=True)
class RoomResponse:
    """One response. Counts are of tokens; `num_output_tokens` are those of this response."""

    key: int  # of the stream; what `cancel` takes
    token_ids: tuple[int, ...]
    span: TextSpan
    finish_reason: FinishReason | None
    stop_reason: str
    num_input_tokens: int
    num_output_tokens: int


def load_token_bytes(engine_directory: Path) -> TokenBytes:
    """The token table beside the engine; raises `EngineConfigError`."""
    path = engine_directory / "token_bytes.npz"
    try:
        return TokenBytes(path)
    except (OSError, KeyError, ValueError) as error:
        raise EngineConfigError(
            f"{path} cannot be read ({error}); rebuild the engine with 'make engine'"
        ) from error


class Reply(Protocol):
    """Where one request's responses go. Called from one thread at a time."""

    def send(self, response: RoomResponse) -> None:
        """Send; final if the response has a finish reason."""

    def fail(self, message: str) -> None:
        """End the request with UNAVAILABLE."""

    def cancelled(self) -> bool:
        """Whether the client is gone or has cancelled."""


@dataclass
class _Stream:
    key: int
    request_id: str  # the client's own; may be empty, may not be unique
    inputs: GenerationInputs
    reply: Reply
    text: OutputText
    tokens: list[int] = field(default_factory=list)  # made, not yet sent
    finish_reason: FinishReason | None = None
    stop_reason: str = ""  # the stop string that ended the text
    failure: str = ""
    queued: bool = False  # whether the sender has it to do


class GenerationRoom:
    """Start with `open()`, end with `close()`."""

    def __init__(self, engine_directory: Path, log: Callable[[str], None]) -> None:
        self.config = load_engine_config(engine_directory)
        self._log = log
        self._token_bytes = load_token_bytes(engine_directory)
        self._supervisor = EngineSupervisor(
            engine_directory, self.config.limits.hang_timeout_s, self, log
        )
        self._streams: dict[int, _Stream] = {}
        self._next_key = 1  # 0 is the warm-up's
        self._changed = threading.Condition()  # guards the streams and the sender's queue
        self._to_send: deque[_Stream] = deque()
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

    def submit(self, inputs: GenerationInputs, reply: Reply, request_id: str = "") -> None:
        """Admit a request, or raise `InvalidRequest` or `EngineUnavailable` and use no reply."""
        inputs.check_against(self.config)
        with self._changed:
            if self._draining:
                raise EngineUnavailable(SHUTTING_DOWN)
            limits = self.config.limits
            if len(self._streams) >= limits.max_batch_size + limits.max_queue_size:
                raise EngineUnavailable(
                    f"{len(self._streams)} requests are in flight, allowed are "
                    f"{limits.max_batch_size} running and {limits.max_queue_size} queued; "
                    "try again later"
                )
            key = self._next_key
            self._next_key += 1
            stream = _Stream(
                key, request_id, inputs, reply, OutputText(self._token_bytes, inputs.stop_strings)
            )
            ends = tuple(self.config.model.eos_token_ids)
            request = GenerationRequest(
                key, inputs.prompt_ids, inputs.max_tokens, ends, inputs.sampling
            )
            # Inside the lock, so that a cancel cannot reach the engine before its request.
            if not self._supervisor.submit(request):
                raise EngineUnavailable("the engine is being restarted; try again in a few seconds")
            self._streams[key] = stream

    def cancel(self, key: int) -> None:
        """End a stream with finish reason "cancelled"; an unknown or ended one is no error."""
        with self._changed:
            stream = self._streams.pop(key, None)
            if stream is None:
                return
            stream.finish_reason = "cancelled"
            stream.text.finish()
            self._enqueue(stream)
            self._changed.notify()
        self._supervisor.cancel(key)

    def cancel_request(self, request_id: str) -> None:
        """End every stream that the client named so."""
        for key, stream in list(self._streams.items()):
            if stream.request_id == request_id:
                self.cancel(key)

    # What the supervisor's thread calls.

    def on_deltas(self, deltas: list[TokenDelta]) -> None:
        """Take one step's tokens."""
        with self._changed:
            for delta in deltas:
                stream = self._streams.get(delta.key)
                if stream is not None:  # else it ended here while its tokens were on their way
                    self._take_delta(stream, delta)
            self._changed.notify()

    def _take_delta(self, stream: _Stream, delta: TokenDelta) -> None:
        stream.tokens += delta.token_ids
        stop = stream.text.feed(delta.token_ids)
        if stop is not None:
            stream.finish_reason, stream.stop_reason = "stop", stop
            if delta.finish_reason is None:
                self._supervisor.cancel(delta.key)
        elif delta.finish_reason is not None:
            stream.finish_reason, stream.failure = delta.finish_reason, delta.error
            stream.text.finish()
        if stream.finish_reason is not None:
            del self._streams[delta.key]
        if stream.finish_reason is not None or stream.inputs.streaming:
            self._enqueue(stream)

    def on_engine_lost(self, reason: str) -> None:
        """Fail whatever was in the engine."""
        with self._changed:
            for stream in self._streams.values():
                stream.finish_reason, stream.failure = "error", reason
                self._enqueue(stream)
            self._streams.clear()
            self._changed.notify()

    def has_open_requests(self) -> bool:
        """Whether the engine owes anyone a token."""
        return bool(self._streams)

    # The sender's thread: one, so that the responses of a request keep their order.

    def _enqueue(self, stream: _Stream) -> None:
        """Give a stream to the sender, unless it has it."""
        if not stream.queued:
            stream.queued = True
            self._to_send.append(stream)

    def _send_all(self) -> None:
        while (stream := self._next_stream()) is not None:
            try:
                self._answer(stream)
            except Exception as error:  # whatever Triton raises, the other streams go on
                self._log(f"a response could not be sent ({error}); its request is given up")
                self._give_up(stream)
            self._sending = False

    def _give_up(self, stream: _Stream) -> None:
        with self._changed:
            self._streams.pop(stream.key, None)
        self._supervisor.cancel(stream.key)

    def _next_stream(self) -> _Stream | None:
        with self._changed:
            self._changed.wait_for(lambda: self._to_send or self._closing.is_set())
            self._sending = bool(self._to_send)
            return self._to_send.popleft() if self._to_send else None

    def _answer(self, stream: _Stream) -> None:
        """Send what has come together for one stream since its last response, as one response."""
        with self._changed:
            reason = stream.finish_reason
            response = self._response(stream)
            stream.queued = False
        if reason == "error":
            stream.reply.fail(stream.failure)
        else:
            stream.reply.send(response)

    def _response(self, stream: _Stream) -> RoomResponse:
        made = tuple(stream.tokens)
        stream.tokens.clear()
        inputs = stream.inputs
        echo = inputs.prompt_ids if inputs.echo_prompt and not inputs.streaming else ()
        return RoomResponse(
            key=stream.key,
            token_ids=echo + made,
            span=stream.text.take(),
            finish_reason=stream.finish_reason,
            stop_reason=stream.stop_reason,
            num_input_tokens=len(inputs.prompt_ids),
            num_output_tokens=len(made),
        )

    # The watching thread.

    def _watch(self) -> None:
        while not self._closing.wait(CANCEL_POLL_S):
            self._watch_cancels()
            if self._drain.is_asked():
                self._watch_drain()

    def _watch_cancels(self) -> None:
        for key, stream in list(self._streams.items()):
            try:
                if stream.reply.cancelled():
                    self.cancel(key)
            except Exception as error:  # as above
                self._log(f"a request could not be asked whether it is cancelled ({error})")

    def _watch_drain(self) -> None:
        if self._drain.is_overdue():
            self.on_engine_lost(SHUTTING_DOWN)
        with self._changed:
            self._draining = True
            idle = not self._streams and not self._to_send and not self._sending
        if idle:
            self._drain.confirm()
