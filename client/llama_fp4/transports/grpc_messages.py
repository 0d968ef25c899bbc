"""Requests, responses and errors in gRPC's messages, without I/O, for both clients."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as pb

from llama_fp4.answers import Chunk, ModelMetadata, ModelState, TensorInfo
from llama_fp4.errors import (
    ClientClosed,
    ConnectError,
    ConnectionLost,
    InvalidRequest,
    LlamaError,
    TlsError,
    error_of,
)
from llama_fp4.model_contract import Request, Tensor
from llama_fp4.settings import Connection

SERVICE = "/inference.GRPCInferenceService/"
MAX_MESSAGE_BYTES = 64 * 2**20
PACKED = {"FP32": "f", "FP64": "d", "INT32": "i", "INT64": "q", "UINT32": "I", "UINT64": "Q"}
PACKED |= {"BOOL": "?", "FP16": "e", "INT8": "b", "UINT8": "B", "INT16": "h", "UINT16": "H"}
# gRPC's own words, in lower case, for UNAVAILABLE without a server's answer.
NAME_WORDS = ("errors resolving", "dns resolution", "lookup")  # tried first: a host may be "tls"
TLS_WORDS = ("ssl", "tls", "certificate", "handshake", "verification check")
# gRPC names the last of several addresses, and puts the failure of a name in brackets.
NOT_CONNECTED = re.compile(
    r"last error: \w+: ipv[46]:(?P<address>\S+): (?:Failed to connect to remote host: )?(?P<why>.+)"
    r"|errors resolving (?P<name>\S+): .*: (?P<reason>[^:\]]+)\]?$"
)
CONNECT_WORDS = ("failed to connect", "connection refused", "no route")
LOST_WORDS = (
    "socket closed",
    "goaway",
    "recvmsg",
    "reset",
    "broken pipe",
    "keepalive",
    "ping timeout",
    "stream removed",
    "endpoint",
    "eof",
    "rst_stream",
    "connection",
    "transport",
)
STOP = struct.pack("<?", True)


def options(connection: Connection) -> list[tuple[str, Any]]:
    """The channel's arguments."""
    named: dict[str, Any] = {
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
        "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
        # Channels with the same arguments share a connection; closing one must close its own.
        "grpc.use_local_subchannel_pool": 1,
        # A restarted server is found within 2 s; gRPC's own pauses grow to 120 s.
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 2000,
        # As over HTTP, proxies in the environment are for the web, not for inference servers.
        "grpc.enable_http_proxy": 0,
    }
    if connection.keepalive.every_s is not None:
        named["grpc.keepalive_time_ms"] = round(connection.keepalive.every_s * 1000)
        named["grpc.keepalive_timeout_ms"] = round(connection.keepalive.timeout_s * 1000)
        # gRPC's own ping, which measures the connection, delays ours by this long.
        named["grpc.http2.ping_timeout_ms"] = round(connection.keepalive.timeout_s * 1000)
        named["grpc.http2.max_pings_without_data"] = 0
    if connection.tls is not None and connection.tls.server_name:
        named["grpc.ssl_target_name_override"] = connection.tls.server_name
    return list(named.items())


def credentials(connection: Connection) -> grpc.ChannelCredentials | None:
    """None for a connection without TLS."""
    if not connection.secure:
        return None
    tls = connection.tls
    if tls is None:
        return grpc.ssl_channel_credentials()
    return grpc.ssl_channel_credentials(tls.pem("ca"), tls.pem("key"), tls.pem("cert"))


def check_process(made_in: int) -> None:
    """Raises `InvalidRequest` in a fork: two processes would write to one connection."""
    if made_in != os.getpid():
        raise InvalidRequest(
            f"the client belongs to another process, {made_in}: make one in each, after the fork"
        )


def infer_request(request: Request) -> Any:
    """A `ModelInferRequest`. Raises `InvalidRequest` for a value that its datatype cannot hold."""
    message = pb.ModelInferRequest(model_name=request.model, id=request.id)
    for name, value in request.parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(message.parameters[name], kind, value)
    for tensor in request.tensors:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(packed(tensor))
    for output in request.outputs:
        message.outputs.add(name=output)
    return message


def stop_request(request_id: str) -> Any:
    """Makes our room 2 drop the request with this id.

    Triton 2.51 reports the end of an RPC only at its next response, and a request that waits or is
    not streamed has none soon.
    """
    message = pb.ModelInferRequest(model_name="tensorrt_llm", id=request_id)
    message.inputs.add(name="stop", datatype="BOOL", shape=[1, 1])
    message.raw_input_contents.append(STOP)
    return message


def packed(tensor: Tensor) -> bytes:
    """The values as Triton's raw contents: little-endian; each string after its length."""
    try:
        if tensor.datatype == "BYTES":
            encoded = [value.encode() for value in tensor.values]
            return b"".join(struct.pack("<I", len(data)) + data for data in encoded)
        form = PACKED[tensor.datatype]
        return struct.pack(f"<{len(tensor.values)}{form}", *tensor.values)
    except (struct.error, OverflowError, UnicodeEncodeError, KeyError, AttributeError) as error:
        raise InvalidRequest(
            f"{tensor.name} must be what {tensor.datatype} can hold, not "
            f"{list(tensor.values)!r:.60}: {error}"
        ) from error


class Reader:
    """Turns the responses of one request into chunks."""

    __slots__ = ("_cumulative", "_finish", "_index", "_inputs", "_layouts", "_stop", "_text")

    def __init__(self, cumulative: bool) -> None:
        self._cumulative = cumulative
        # By the outputs' names in order, because responses omit outputs.
        self._layouts: dict[tuple[str, ...], tuple[int, ...]] = {}
        self._index = 0
        self._text = ""
        self._finish = self._stop = ""
        self._inputs = 0

    def read(self, response: Any) -> Chunk:
        """`response` is a `ModelInferResponse`."""
        raw = response.raw_output_contents
        names = tuple([output.name for output in response.outputs])
        layout = self._layouts.get(names)
        if layout is None:
            layout = self._layouts[names] = _layout(names)
        text_at, count_at, ids_at, finish_at, stop_at, inputs_at, top_at = layout
        final = response.parameters["triton_final_response"].bool_param
        text = raw[text_at][4:].decode() if text_at >= 0 else ""
        if finish_at >= 0:
            self._finish = raw[finish_at][4:].decode() or self._finish
        if stop_at >= 0:
            self._stop = raw[stop_at][4:].decode() or self._stop
        if inputs_at >= 0:
            self._inputs = int.from_bytes(raw[inputs_at][:4], "little") or self._inputs
        if self._cumulative:
            text = self._new(text, final)
        index = self._index
        self._index = index + 1
        return Chunk(
            text,
            tuple(memoryview(raw[ids_at]).cast("i")) if ids_at >= 0 else (),
            index,
            final,
            self._finish if final else "",
            self._stop if final else "",
            int.from_bytes(raw[count_at][:4], "little") if count_at >= 0 else 0,
            self._inputs if final else 0,
            raw[top_at][4:].decode() if top_at >= 0 else "",
        )

    def _new(self, text: str, final: bool) -> str:
        """The text that is new since the last one; an incomplete character is held back."""
        if not final:
            text = text.rstrip("\ufffd")
        new = text[len(self._text) :]
        self._text += new
        return new


def _layout(names: tuple[str, ...]) -> tuple[int, ...]:
    at = {name: index for index, name in enumerate(names)}
    return tuple(
        at.get(name, -1)
        for name in (
            "text_output",
            "num_output_tokens",
            "token_ids",
            "finish_reason",
            "stop_reason",
            "num_input_tokens",
            "top_logprobs",
        )
    )


def error_of_rpc(code: str, details: str, request_id: str = "") -> LlamaError:
    """The error for an RPC's status, set by the server or by gRPC itself."""
    words = details.lower()
    if code == "UNAVAILABLE":
        if any(word in words for word in NAME_WORDS):
            return ConnectError(_plain(details), code, request_id)
        if any(word in words for word in TLS_WORDS):
            return TlsError(details, code, request_id)
        if any(word in words for word in CONNECT_WORDS):
            return ConnectError(_plain(details), code, request_id)
        if any(word in words for word in LOST_WORDS):
            return ConnectionLost(details, code, request_id)
    if code == "RESOURCE_EXHAUSTED" and "larger than max" in words:  # gRPC's own, in this process
        return InvalidRequest(f"{details} bytes", "INVALID_ARGUMENT", request_id)
    if code in ("UNKNOWN", "INTERNAL") and ("stream removed" in words or "rst_stream" in words):
        return ConnectionLost(details, "UNAVAILABLE", request_id)
    if code == "CANCELLED" and ("channel closed" in words or "channel is closed" in words):
        return ClientClosed("the client was closed", code, request_id)
    return error_of(code, details, request_id)


def _plain(details: str) -> str:
    """gRPC's message for a failed connection, without its internals."""
    found = NOT_CONNECTED.search(details)
    if not found:
        return details
    address, why = found["address"] or found["name"], found["why"] or found["reason"]
    return f"no connection to {unquote(address)}: {why}"


def outputs_of(answer: Any) -> dict[str, bytes]:
    """The raw contents of a `ModelInferResponse`'s outputs, by name."""
    names = [output.name for output in answer.outputs]
    return dict(zip(names, answer.raw_output_contents, strict=True))


def metadata_of(answer: Any) -> ModelMetadata:
    """From a `ModelMetadataResponse`."""
    tensors: Callable[[Any], tuple[TensorInfo, ...]] = lambda kind: tuple(  # noqa: E731
        TensorInfo(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in kind
    )
    return ModelMetadata(
        answer.name,
        tuple(answer.versions),
        answer.platform,
        tensors(answer.inputs),
        tensors(answer.outputs),
    )


def is_decoupled(answer: Any) -> bool:
    """From a `ModelConfigResponse`: whether a request may have several responses."""
    return bool(answer.config.model_transaction_policy.decoupled)


def states_of(answer: Any) -> list[ModelState]:
    """From a `RepositoryIndexResponse`."""
    return [ModelState(m.name, m.version, m.state, m.reason) for m in answer.models]


def as_dict(answer: Any) -> dict[str, Any]:
    """Any message as its JSON."""
    found: dict[str, Any] = json_format.MessageToDict(answer, preserving_proto_field_name=True)
    return found
