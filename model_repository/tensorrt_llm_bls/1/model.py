"""Triton's door to the unary model: it asks the streaming ensemble and gives one response.

Each request waits on its own thread: Triton calls `execute` again only after it has returned.
"""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
import uuid
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from unary_requests import Refusal, ensemble_inputs, ensemble_parameters, error_of

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
CANCEL_POLL_S = 0.1
MAX_WAITING = 1024  # threads; the engine's queue is usually full long before
# Triton 2.51's stub has two faults here. It frees a call's tensors on another thread without
# Python's lock if Python has already dropped them, so calls are kept until that thread is done. And
# it can deadlock if one thread waits for a second response while another makes a call, so a call
# gets one response.
HOLD_S = 5.0


class TritonPythonModel:
    """Keeps the requests in flight, and stops those whose client is gone."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start watching."""
        self._waiting: dict[str, UnaryReply] = {}  # by the id under which this model can stop it
        self._calls: deque[tuple[float, Any]] = deque()  # when each was made, and the call itself
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="cancel-watch", daemon=True)
        self._watcher.start()
        _tell_serve("tensorrt_llm_bls.loaded")

    def execute(self, requests: list[Any]) -> None:
        """Answer each request on its own thread."""
        for request in requests:
            reply = UnaryReply(request.get_response_sender())
            try:
                given = _parameters(request)
                reply.named_errors = given.get("named_errors") is True
                self._check_room()
            except Refusal as error:
                reply.fail(str(error), error.code)
                continue
            own_id = uuid.uuid4().hex
            self._waiting[own_id] = reply
            arguments = (request, given, own_id, reply)
            threading.Thread(target=self._answer, args=arguments, daemon=True).start()

    def _check_room(self) -> None:
        if len(self._waiting) >= MAX_WAITING:
            raise Refusal(
                f"{MAX_WAITING} requests are waiting, which is the most; try again later",
                "UNAVAILABLE",
            )

    def finalize(self) -> None:
        """Stop watching."""
        self._closing.set()
        self._watcher.join()

    def _answer(self, request: Any, given: dict[str, Any], own_id: str, reply: UnaryReply) -> None:
        try:
            reply.send(self._ask(request, ensemble_parameters(given, own_id)))
        except Refusal as error:
            reply.fail(str(error), error.code)
        except Exception:  # our own bug: the log gets the trace, the caller a sentence
            pb_utils.Logger.log_error(traceback.format_exc())
            reply.fail("the request could not be answered", "INTERNAL")
        finally:
            del self._waiting[own_id]

    def _ask(self, request: Any, parameters: dict[str, Any]) -> Any:
        arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        call = pb_utils.InferenceRequest(
            model_name="ensemble",
            request_id=request.request_id(),
            requested_output_names=list(request.requested_output_names()),
            inputs=[pb_utils.Tensor(*item) for item in ensemble_inputs(arrays).items()],
            parameters=parameters,
        )
        response = self._only_response(call)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(t.name(), t.as_numpy()) for t in response.output_tensors()]
        )

    def _only_response(self, call: Any) -> Any:
        """Make a call and return its one response; raises `Refusal` for an error."""
        responses = call.exec(decoupled=True)
        self._calls.append((time.monotonic(), responses))
        (response,) = responses
        if response.has_error():
            raise error_of(response.error().message())
        return response

    def _watch(self) -> None:
        while not self._closing.wait(CANCEL_POLL_S):
            for own_id, reply in list(self._waiting.items()):
                if reply.cancelled():
                    self._stop(own_id)
            while self._calls and time.monotonic() - self._calls[0][0] > HOLD_S:
                self._calls.popleft()

    def _stop(self, own_id: str) -> None:
        """Stop the engine's work on a request; it then ends with what it has."""
        stop = pb_utils.InferenceRequest(
            model_name="tensorrt_llm",
            request_id=own_id,
            requested_output_names=["sequence_length"],
            inputs=[pb_utils.Tensor("stop", np.array([[True]]))],
        )
        try:
            self._only_response(stop)
        except Exception as error:  # the watcher must go on for the others
            pb_utils.Logger.log_warn(f"{own_id} was not stopped: {error}")


def _tell_serve(sign: str) -> None:
    """Tell serve.py, which restarts a server whose models make no progress."""
    folder = os.environ.get("LLAMA_FP4_DRAIN_DIRECTORY")
    if folder:
        Path(folder, sign).touch()


def _parameters(request: Any) -> dict[str, Any]:
    """The request parameters; raises `Refusal`."""
    try:
        given: dict[str, Any] = json.loads(request.parameters() or "{}")
    except UnicodeDecodeError:
        raise Refusal("a request parameter must be UTF-8 text", "INVALID_ARG") from None
    return given


class UnaryReply:
    """Triton's response sender.

    Asking a freed one whether it is cancelled would crash the server (seen on 2.51). So sending and
    asking never overlap here.
    """

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._ended = False
        self.named_errors = False  # whether an error's message begins with "[CODE] "

    def send(self, response: Any) -> None:
        """Send the one response."""
        with self._lock:
            self._ended = True
            self._sender.send(response, flags=FINAL)

    def fail(self, message: str, code: str) -> None:
        """End with an error; `code` is the name of one of Triton's."""
        message = f"[{code}] {message}" if self.named_errors else message
        error = pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))
        self.send(pb_utils.InferenceResponse(error=error))

    def cancelled(self) -> bool:
        """Whether the client cancelled or went away."""
        with self._lock:
            return not self._ended and bool(self._sender.is_cancelled())
