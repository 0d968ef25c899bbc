"""Triton's door to room 2: tensors to rows of `GenerationInputs`, `RoomResponse`s to tensors."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from engine_config import EngineConfigError
from generation_room import GenerationRoom
from request_inputs.generation import read_inputs, refuse_several_responses
from request_inputs.rows import InvalidRequest, Refusal, read_parameters, wants_named_errors
from response_outputs.metrics import EngineInfo, EngineMetrics
from response_outputs.room_response import STOPPED, RoomResponse, response_arrays, stacked
from serve_signals import ENGINE_ROOM, SIGNS, tell_serve
from token_engine.interface import EngineLoadError

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """One instance a server, because the engine batches the requests, not Triton."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine beside this file and wait until it is warm."""
        tell_serve(SIGNS[ENGINE_ROOM])  # what follows may take minutes
        engine = Path(__file__).with_name("engine")
        log = pb_utils.Logger.log_info
        self._echo_prompt = _parameter(args, "exclude_input_in_output") == "false"
        self._unary = not _is_decoupled(args)
        try:
            self._room = GenerationRoom(engine, lambda text: log(f"tensorrt_llm: {text}"))
            self._room.open()
        except (EngineConfigError, EngineLoadError) as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._info = EngineInfo(pb_utils, self._room.config, self._room.engine_facts)
        self._metrics = EngineMetrics(pb_utils, self._room.engine_stats, self._info.refresh)

    def execute(self, requests: list[Any]) -> None:
        """Admit each request; its responses follow from the room's own threads."""
        for request in requests:
            reply = TritonReply(request.get_response_sender(), self._metrics.count)
            try:
                self._admit(request, reply)
            except Refusal as error:
                reply.fail(str(error), error.code)
            except Exception:  # our own bug: the log gets the trace, the caller a sentence
                pb_utils.Logger.log_error(traceback.format_exc())
                reply.fail("the request could not be read", "INTERNAL")

    def _admit(self, request: Any, reply: TritonReply) -> None:
        given = _parameters(request)
        reply.named_errors = wants_named_errors(given)
        parameters = read_parameters(given)
        ids = {request.request_id(), *parameters.ids} - {""}
        arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if "stop" in arrays and arrays["stop"].any():
            self._stop(ids, parameters.key)
            reply.send_arrays(STOPPED, final=True)
        else:
            rows = read_inputs(arrays, self._room.config, self._echo_prompt)
            if self._unary:
                refuse_several_responses(rows, packed=parameters.one_response)
            self._room.submit(rows, reply, ids, parameters.one_response)

    def _stop(self, ids: set[str], key: int | None) -> None:
        """Cancel as upstream's clients do, by id; room 3 cancels by the request's key."""
        if not ids and key is None:
            raise InvalidRequest("stop is true and must come with a request id")
        for client_id in ids:
            self._room.cancel_id(client_id)
        if key is not None:
            self._room.cancel(key)

    def is_ready(self) -> bool:
        """Triton 26.03 and later asks this; false while the engine restarts."""
        return self._room.is_ready

    def finalize(self) -> None:
        """Stop the engine process."""
        self._room.close()
        self._metrics.withdraw()
        self._info.withdraw()


def _parameters(request: Any) -> str:
    """The request parameters as JSON; raises `InvalidRequest`."""
    try:
        return str(request.parameters())
    except UnicodeDecodeError:
        raise InvalidRequest("a request parameter must be UTF-8 text") from None


def _parameter(args: dict[str, str], name: str) -> str:
    """A parameter of config.pbtxt; empty if it is not there."""
    value = json.loads(args["model_config"])["parameters"].get(name, {})
    return str(value.get("string_value", "")).lower()


def _is_decoupled(args: dict[str, str]) -> bool:
    """Whether a request may have several responses: not in a repository made with --unary."""
    policy = json.loads(args["model_config"]).get("model_transaction_policy", {})
    return bool(policy.get("decoupled", False))


class TritonReply:
    """A `Reply` over Triton's response sender.

    The server frees its side of the sender with the final response, and asking a freed one whether
    it is cancelled crashes the server (seen on 2.51). So the two never overlap here.
    """

    def __init__(self, sender: Any, count: Callable[[list[RoomResponse]], None]) -> None:
        self._sender = sender
        self._count = count
        self.named_errors = False  # whether an error's message begins with "[CODE] "
        self._lock = threading.Lock()
        self._ended = False

    def send(self, responses: list[RoomResponse], final: bool) -> None:
        """Send them as one response."""
        arrays = stacked([response_arrays(response) for response in responses])
        self.send_arrays(arrays, final)
        self._count(responses)

    def send_arrays(self, arrays: dict[str, Any], final: bool) -> None:
        """Send the arrays of one response."""
        tensors = [pb_utils.Tensor(name, array) for name, array in arrays.items()]
        self._send(pb_utils.InferenceResponse(tensors), final)

    def fail(self, message: str, code: str) -> None:
        """End with an error; `code` is the name of one of Triton's."""
        message = f"[{code}] {message}" if self.named_errors else message
        error = pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))
        self._send(pb_utils.InferenceResponse(error=error), True)

    def cancelled(self) -> bool:
        """Ask Triton whether the client cancelled or went away."""
        with self._lock:
            return not self._ended and bool(self._sender.is_cancelled())

    def _send(self, response: Any, final: bool) -> None:
        with self._lock:
            self._ended = final
            self._sender.send(response, flags=FINAL if final else 0)
