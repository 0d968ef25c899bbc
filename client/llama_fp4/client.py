"""One call a request: prompt or messages out, chunks of text back as the server makes them.

Built on the KServe stubs that tritonclient ships. Every request has an RPC of its own, and so a
deadline, a status and a cancellation of its own; leaving the loop over its chunks cancels it.
"""

from __future__ import annotations

import contextlib
import json
import struct
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

MAX_MESSAGE_BYTES = 64 * 2**20
# Where gRPC's name of a status is not Triton's.
GRPC_NAMES = {"INVALID_ARG": "INVALID_ARGUMENT", "UNSUPPORTED": "UNIMPLEMENTED"}
LEFT = (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)  # how an RPC ended
STOP_TIMEOUT_S = 5.0
ZERO = bytes(4)  # a number 0, or a string of length 0

PACKED: dict[str, Callable[[Any], bytes]] = {
    "FP32": lambda value: struct.pack("<f", value),
    "INT32": lambda value: struct.pack("<i", value),
    "UINT64": lambda value: struct.pack("<Q", value),
    "BOOL": lambda value: struct.pack("<?", value),
    "BYTES": lambda value: _packed_text(value if isinstance(value, str) else json.dumps(value)),
}
# Options by name, each a tensor of one value: Triton's datatype. BYTES take a string, or what JSON
# is made of.
OPTIONS: dict[str, str] = {
    "temperature": "FP32",
    "top_k": "INT32",
    "top_p": "FP32",
    "min_p": "FP32",
    "seed": "UINT64",
    "repetition_penalty": "FP32",
    "presence_penalty": "FP32",
    "frequency_penalty": "FP32",
    "min_tokens": "INT32",
    "end_id": "INT32",
    "ignore_eos": "BOOL",
    "skip_special_tokens": "BOOL",
    "include_stop_str_in_output": "BOOL",
    "exclude_input_in_output": "BOOL",
    "tools": "BYTES",
    "guided_decoding_guide_type": "BYTES",
    "guided_decoding_guide": "BYTES",
    "priority": "INT32",
    "timeout_ms": "INT32",
}


class LlamaError(RuntimeError):
    """The server refused a request or failed in it; `code` is gRPC's name of the status."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one response brought. The texts of a request's chunks, joined, are its answer."""

    text: str
    num_output_tokens: int  # of this chunk
    final: bool
    num_input_tokens: int  # of the whole prompt; 0 before the final chunk
    finish_reason: str  # "" before the final chunk; stop, length, cancelled or timeout
    stop_reason: str  # the stop word that ended the text, else ""


class Client:
    """A connection to one server, `host:port` of its gRPC endpoint. Any number of streams."""

    def __init__(self, url: str = "127.0.0.1:8001", model: str = "ensemble") -> None:
        limits = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
        self._channel = grpc.insecure_channel(url, options=limits)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._model = model

    def stream(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        max_tokens: int = 128,
        stop_words: Sequence[str] = (),
        timeout_s: float | None = None,
        stream: bool = True,
        **options: Any,
    ) -> Iterator[Chunk]:
        """Generate from a raw prompt (a string) or from chat messages (role and content each).

        `options` are those of `OPTIONS`; an unknown one raises TypeError. With `stream=False` the
        one chunk is the whole answer. Raises `LlamaError`.
        """
        request = self._request(prompt, max_tokens, stop_words, stream, options)
        call = self._stub.ModelStreamInfer(iter([request]), timeout=timeout_s)
        try:
            yield from _chunks(call)
        finally:
            call.cancel()
            if call.code() in LEFT:
                self._stop(request.id)

    def generate(self, prompt: str | Sequence[Mapping[str, str]], **options: Any) -> str:
        """The whole answer as one string; arguments as for `stream`."""
        return "".join(chunk.text for chunk in self.stream(prompt, stream=False, **options))

    def is_ready(self, timeout_s: float = 1.0) -> bool:
        """Whether the server answers and the model can be called."""
        try:
            request = service_pb2.ModelReadyRequest(name=self._model)
            return bool(self._stub.ModelReady(request, timeout=timeout_s).ready)
        except grpc.RpcError:
            return False

    def close(self) -> None:
        """Close the connection; running streams end with an error."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _stop(self, request_id: str) -> None:
        """Have the engine drop a request that was left.

        Triton 2.51 tells it of an RPC's end only with its next response, and a request that waits
        or is not streamed has none soon.
        """
        stop = service_pb2.ModelInferRequest(model_name="tensorrt_llm", id=request_id)
        _add(stop, "stop", "BOOL", [struct.pack("<?", True)])
        with contextlib.suppress(grpc.RpcError, ValueError):  # ValueError: the channel is closed
            for _ in self._stub.ModelStreamInfer(iter([stop]), timeout=STOP_TIMEOUT_S):
                pass

    def _request(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        max_tokens: int,
        stop_words: Sequence[str],
        stream: bool,
        options: Mapping[str, Any],
    ) -> Any:
        request = service_pb2.ModelInferRequest(model_name=self._model, id=uuid.uuid4().hex)
        request.parameters["named_errors"].bool_param = True
        if isinstance(prompt, str):
            _add(request, "text_input", "BYTES", [_packed_text(prompt)])
        else:
            _add(request, "messages", "BYTES", [_packed_text(json.dumps(list(prompt)))])
        _add(request, "max_tokens", "INT32", [struct.pack("<i", max_tokens)])
        _add(request, "stream", "BOOL", [struct.pack("<?", stream)])
        if stop_words:
            _add(request, "stop_words", "BYTES", [_packed_text(word) for word in stop_words])
        for name, value in options.items():
            if name not in OPTIONS:
                raise TypeError(f"{name!r} is no option, allowed are {', '.join(OPTIONS)}")
            if value is not None:
                datatype = OPTIONS[name]
                _add(request, name, datatype, [PACKED[datatype](value)])
        return request


def _add(request: Any, name: str, datatype: str, values: list[bytes]) -> None:
    request.inputs.add(name=name, datatype=datatype, shape=[1, len(values)])
    request.raw_input_contents.append(b"".join(values))


def _packed_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _chunks(call: Any) -> Iterator[Chunk]:
    final: Chunk | None = None
    failure: LlamaError | None = None
    try:
        # The last chunk is handed out after the RPC has ended: a cancel that crosses the end of
        # an RPC, as when the caller leaves the loop there, makes Triton 2.51 keep it for ever.
        for message in call:
            if message.error_message:
                failure = _failure(message.error_message)
                continue
            chunk = _chunk(message.infer_response)
            if chunk.final:
                final = chunk
            else:
                yield chunk
    except grpc.RpcError as error:
        raise LlamaError(error.details() or "", error.code().name) from error
    if failure is not None:
        raise failure
    if final is None:
        raise LlamaError("the stream ended before its final response", "UNKNOWN")
    yield final


def _failure(message: str) -> LlamaError:
    """Streams carry no status; the rooms put Triton's code before the message (`named_errors`)."""
    _, bracket, named = message.partition("[")
    code, end, text = named.partition("] ")
    if bracket and end and code.isupper():
        return LlamaError(text, GRPC_NAMES.get(code, code))
    return LlamaError(message, "UNKNOWN")


def _chunk(response: Any) -> Chunk:
    raw = {
        output.name: data
        for output, data in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    return Chunk(
        text=_text(raw["text_output"]),
        num_output_tokens=_int(raw["num_output_tokens"]),
        final=response.parameters["triton_final_response"].bool_param,
        num_input_tokens=_int(raw.get("num_input_tokens", ZERO)),
        finish_reason=_text(raw.get("finish_reason", ZERO)),
        stop_reason=_text(raw.get("stop_reason", ZERO)),
    )


def _text(data: bytes) -> str:
    return data[4:].decode()


def _int(data: bytes) -> int:
    return int.from_bytes(data[:4], "little", signed=True)
