"""Triton's HTTP: what is sent, and what the bytes that come mean; no I/O, so both clients share it.

Requests go to the `generate_stream` extension, whose events are JSON. One connection a request.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from llama_fp4.answers import Chunk, ModelMetadata, ModelState, TensorInfo
from llama_fp4.errors import (
    ConnectError,
    ConnectionLost,
    InvalidRequest,
    LlamaError,
    ServerFailed,
    TlsError,
    error_of,
    error_of_message,
)
from llama_fp4.model_contract import Request
from llama_fp4.settings import Connection, Tls
from llama_fp4.transports.http_body import Body

READ_BYTES = 65536
CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def head(connection: Connection, method: str, path: str, body: bytes = b"") -> bytes:
    """A whole request; the headers were checked when the client was made."""
    lines = [
        f"{method} {path} HTTP/1.1",
        f"host: {connection.address}",
        "connection: close",
        f"content-length: {len(body)}",
        "content-type: application/json",
    ]
    lines += [f"{name}: {value}" for name, value in connection.headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def model_path(model: str) -> str:
    """The path of a model, whatever is in its name."""
    return f"/v2/models/{quote(model, safe='')}"


def generate(connection: Connection, request: Request) -> bytes:
    """A request for `generate_stream`; options and parameters are its JSON's keys.

    Raises `InvalidRequest` for text that is no Unicode.
    """
    body: dict[str, Any] = dict(request.parameters)
    body.pop("triton_enable_empty_final_response", None)  # of gRPC alone
    if request.id:
        body["id"] = request.id
    for tensor in request.tensors:
        values = list(tensor.values)
        body[tensor.name] = values[0] if len(values) == 1 else values
    try:
        data = json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"the request has half a surrogate pair in it: {error}") from error
    return head(connection, "POST", f"{model_path(request.model)}/generate_stream", data)


def stop(connection: Connection, request_id: str) -> bytes:
    """What has our room 2 drop the request of this id."""
    body = json.dumps({"stop": True, "id": request_id}).encode()
    return head(connection, "POST", "/v2/models/tensorrt_llm/generate", body)


def tls_context(connection: Connection) -> ssl.SSLContext | None:
    """None for a connection without TLS. Raises `InvalidRequest` for what is no PEM."""
    if not connection.secure:
        return None
    tls = connection.tls or Tls()
    if isinstance(tls.cert, bytes) or isinstance(tls.key, bytes):
        raise InvalidRequest("cert and key must be paths over HTTP, not bytes")
    authority = tls.pem("ca")
    name = "ca"
    try:
        context = ssl.create_default_context(cadata=authority and authority.decode("ascii"))
        if tls.cert is not None and tls.key is not None:
            name = "cert or key"
            # The standard library reads files only, and would ask a terminal for a password.
            context.load_cert_chain(tls.cert, tls.key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{name} is no PEM file without a password: {error}") from error
    return context


class Events:
    """Makes chunks of one request's bytes."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._body = Body()
        self._text = b""
        self._chunks: list[Chunk] = []
        self._index = 0
        self._said = ""
        self._final = False
        # The last that a response has said; where the end of the response is the final chunk,
        # that comes after it.
        self._finish = self._stop = ""
        self._inputs = 0

    @property
    def done(self) -> bool:
        """Whether the response has ended."""
        return self._body.done

    def feed(self, data: bytes) -> None:
        """Bytes have come, b"" when the connection has ended. Raises `LlamaError`."""
        try:
            self._text += self._body.feed(data)
        except LlamaError as error:
            error.request_id = self._request.id
            raise
        *events, self._text = self._text.split(b"\n\n")
        if self.done and self._text.strip():  # refusals are plain JSON
            events, self._text = [*events, self._text], b""
        for event in events:
            self._take(event.removeprefix(b"data:").strip())
        if self.done and self._body.status != 200:
            raise self._refusal(f"HTTP status {self._body.status} and nothing else")
        # Only our responses say which is the last; of others the end of the response does.
        if self.done and not self._final and not self._request.stoppable and self._index:
            self._append({}, final=True)

    def pop(self) -> Chunk | None:
        """The next chunk that is whole. The final one only when the response has ended."""
        if self._chunks and (self.done or not self._chunks[0].final):
            return self._chunks.pop(0)
        return None

    def _take(self, event: bytes) -> None:
        if not event:
            return
        text = event.decode(errors="replace")
        try:
            said = json.loads(text)
        except ValueError:
            said = None
        if not isinstance(said, dict) or "error" in said or self._body.status != 200:
            message = said.get("error") if isinstance(said, dict) else None
            raise self._refusal(message if isinstance(message, str) else text[:200])
        self._append(said, final=self._request.stoppable and bool(said.get("is_finished")))

    def _refusal(self, message: str) -> LlamaError:
        error = error_of_message(message, self._request.id)
        code = CODES.get(self._body.status, "")
        if error.code == "UNKNOWN" and code:
            return error_of(code, message, self._request.id)
        return error

    def _append(self, said: Mapping[str, Any], final: bool) -> None:
        text = _one(said.get("text_output", ""))
        if self._request.cumulative and said:
            text = text if final else text.rstrip("\ufffd")
            text = text[len(self._said) :]
            self._said += text
        self._finish = _one(said.get("finish_reason")) or self._finish
        self._stop = _one(said.get("stop_reason")) or self._stop
        self._inputs = int(_one(said.get("num_input_tokens")) or self._inputs)
        ids = said.get("token_ids", [])
        self._chunks.append(
            Chunk(
                text,
                tuple(ids) if isinstance(ids, list) else (ids,),
                self._index,
                final,
                self._finish if final else "",
                self._stop if final else "",
                int(_one(said.get("num_output_tokens")) or 0),
                self._inputs if final else 0,
            )
        )
        self._index += 1
        self._final = self._final or final


def _one(value: Any) -> Any:
    return (value[0] if value else "") if isinstance(value, list) else value


def answer_of(status: int, body: bytes) -> Any:
    """The JSON of a call that is no generation. Raises `LlamaError`."""
    try:
        said = json.loads(body) if body.strip() else {}
    except ValueError:
        said = {"error": body.decode(errors="replace")[:200]}
    message = said.get("error", "") if isinstance(said, dict) else ""
    if status != 200 or message:
        raise error_of(CODES.get(status, "INTERNAL"), str(message) or f"HTTP status {status}")
    return said


def metadata_of(said: Any) -> ModelMetadata:
    """Of the answer to `GET v2/models/NAME`."""
    try:
        inputs, outputs = (
            tuple(TensorInfo(t["name"], t["datatype"], tuple(t["shape"])) for t in said[kind])
            for kind in ("inputs", "outputs")
        )
        return ModelMetadata(
            said["name"], tuple(said.get("versions", [])), said.get("platform", ""), inputs, outputs
        )
    except (KeyError, TypeError) as error:
        raise ServerFailed(f"{str(said)!r:.60} is no model's metadata: no {error}") from error


def is_decoupled(said: Any) -> bool:
    """Of the answer to `GET v2/models/NAME/config`: may a request have several responses."""
    policy = said.get("model_transaction_policy") if isinstance(said, dict) else None
    return isinstance(policy, dict) and policy.get("decoupled") is True


def states_of(said: Any) -> list[ModelState]:
    """Of the answer to `POST v2/repository/index`."""
    return [
        ModelState(m["name"], m.get("version", ""), m.get("state", ""), m.get("reason", ""))
        for m in said
    ]


def error_of_socket(error: BaseException, address: str, connected: bool) -> LlamaError:
    """The error of what the operating system or TLS said."""
    if isinstance(error, ssl.SSLError):
        return TlsError(f"TLS with {address} failed: {error}")
    if connected:
        return ConnectionLost(f"the connection to {address} broke: {error}")
    number = getattr(error, "errno", None) or 0  # a name's own failures are below 0
    why = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or error
    return ConnectError(f"no connection to {address}: {why}")
