"""Triton's door to room 2: tensors to `GenerationInputs`, `RoomResponse`s to tensors."""

from __future__ import annotations

import threading
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from engine_config import EngineConfigError
from generation_inputs import EngineUnavailable, InvalidRequest, read_inputs
from generation_room import GenerationRoom, RoomResponse
from output_text import TextSpan
from token_engine.interface import EngineLoadError

INPUTS = (
    "stop",
    "input_ids",
    "input_lengths",
    "request_output_len",
    "streaming",
    "exclude_input_in_output",
    "stop_words",
    "temperature",
    "runtime_top_k",
    "runtime_top_p",
    "seed",
)
KEY_PREFIX = "stream-key:"  # in a request id: what follows is a stream's key
NOTHING = RoomResponse(0, (), TextSpan(b"", 0), "cancelled", "", 0, 0)
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """One instance a server: the engine batches the requests, not Triton."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine beside this file and wait until it is warm."""
        engine = Path(__file__).with_name("engine")
        log = pb_utils.Logger.log_info
        try:
            self._room = GenerationRoom(engine, lambda text: log(f"tensorrt_llm: {text}"))
            self._room.open()
        except (EngineConfigError, EngineLoadError) as error:
            raise pb_utils.TritonModelException(str(error)) from None

    def execute(self, requests: list[Any]) -> None:
        """Admit each request; its responses follow from the room's own threads."""
        for request in requests:
            reply = TritonReply(request.get_response_sender())
            arrays = _arrays(request)
            if "stop" in arrays and arrays["stop"].any():
                self._stop(request.request_id(), reply)
                continue
            try:
                self._room.submit(read_inputs(arrays), reply, request.request_id())
            except InvalidRequest as error:
                reply.refuse(str(error), pb_utils.TritonError.INVALID_ARG)
            except EngineUnavailable as error:
                reply.refuse(str(error), pb_utils.TritonError.UNAVAILABLE)
            except Exception:  # a defect of ours: the log gets the trace, the caller a sentence
                pb_utils.Logger.log_error(traceback.format_exc())
                reply.refuse("the request could not be read", pb_utils.TritonError.INTERNAL)

    def _stop(self, request_id: str, reply: TritonReply) -> None:
        """Upstream's way to cancel; also room 3's, which names the stream by its key."""
        if not request_id:
            reply.refuse(
                "stop is true, allowed only with a request id", pb_utils.TritonError.INVALID_ARG
            )
            return
        key = request_id.removeprefix(KEY_PREFIX)
        if key != request_id and key.isdecimal():
            self._room.cancel(int(key))
        else:
            self._room.cancel_request(request_id)
        reply.send(NOTHING)

    def finalize(self) -> None:
        """Stop the engine process."""
        self._room.close()


class TritonReply:
    """A `Reply` over Triton's response sender.

    The server frees its side of the sender with the final response, and asking a freed one whether
    it is cancelled crashes the server (seen on 2.51). So the two never overlap here.
    """

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._ended = False

    def send(self, response: RoomResponse) -> None:
        """Send one response; the final flag rides on the last one, never on an empty one."""
        final = response.finish_reason is not None
        self._send(pb_utils.InferenceResponse(_tensors(response)), final)

    def fail(self, message: str) -> None:
        """End with UNAVAILABLE: the engine is at fault, a later try may succeed."""
        self.refuse(message, pb_utils.TritonError.UNAVAILABLE)

    def cancelled(self) -> bool:
        """Ask Triton whether the client cancelled or went away."""
        with self._lock:
            return not self._ended and bool(self._sender.is_cancelled())

    def refuse(self, message: str, code: int) -> None:
        """End with an error."""
        self._send(pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code)), True)

    def _send(self, response: Any, final: bool) -> None:
        with self._lock:
            self._ended = final
            self._sender.send(response, flags=FINAL if final else 0)


def _arrays(request: Any) -> dict[str, Any]:
    tensors = ((name, pb_utils.get_input_tensor_by_name(request, name)) for name in INPUTS)
    return {name: tensor.as_numpy() for name, tensor in tensors if tensor is not None}


def _tensors(response: RoomResponse) -> list[Any]:
    """Only what says something: every tensor of a token costs the server tens of microseconds."""
    ids, span = response.token_ids, response.span
    tensors = [
        _int32("output_ids", [[ids]]),  # [1, 1, tokens]: batch, beam
        _int32("sequence_length", [[len(ids)]]),
        _int32("stream_key", [[response.key]]),
        _int32("num_output_tokens", [[response.num_output_tokens]]),
    ]
    if span.carry:
        tensors.append(_string("text_carry", span.carry))
    if span.hold:
        tensors.append(_int32("text_hold", [[span.hold]]))
    if response.finish_reason is not None:
        tensors += [
            _string("finish_reason", response.finish_reason.encode()),
            _string("stop_reason", response.stop_reason.encode()),
            _int32("num_input_tokens", [[response.num_input_tokens]]),
        ]
    return tensors


def _int32(name: str, values: Any) -> Any:
    return pb_utils.Tensor(name, np.array(values, np.int32))


def _string(name: str, value: bytes) -> Any:
    return pb_utils.Tensor(name, np.array([[value]], object))
