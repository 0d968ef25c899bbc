"""Requests and answers of Triton's HTTP protocol, without I/O, for both clients.

Requests go to the `generate_stream` extension, whose events are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from llama_fp4.answers import Chunk, ModelMetadata, ModelState, ServerInfo, TensorInfo
from llama_fp4.errors import (
    InvalidRequest,
    LlamaError,
    ServerFailed,
    error_of,
    error_of_message,
)
from llama_fp4.model_contract import Request

Answer = TypeVar("Answer")
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


def model_path(model: str) -> str:
    """The path of a model, whose name may hold any character."""
    return f"/v2/models/{quote(model, safe='')}"


def generate(request: Request) -> bytes:
    """The body for `generate_stream`; options and parameters are its JSON's keys.

    Raises `InvalidRequest` for text that is not Unicode.
    """
    body: dict[str, Any] = dict(request.parameters)
    body.pop("triton_enable_empty_final_response", None)  # gRPC only
    if request.id:
        body["id"] = request.id
    for tensor in request.tensors:
        values = list(tensor.values)
        body[tensor.name] = values[0] if len(values) == 1 else values
    try:
        return json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"the request has half a surrogate pair in it: {error}") from error


class Chunks:
    """Turns the events of one request into chunks."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._index = 0
        self._text = ""  # so far, of a model whose events carry the whole text
        self._final: Chunk | None = None
        # From the last event that had them: a stream's end may be the final chunk, without them.
        self._finish = self._stop = ""
        self._inputs = 0

    def add(self, data: str) -> Chunk | None:
        """The chunk of an event; None without data, and for the final chunk, which `end` returns.

        Raises `LlamaError` for an event that is an error or not a JSON object.
        """
        if not data:  # a proxy's sign of life
            return None
        said = _json(data)
        if not isinstance(said, dict) or "error" in said:
            raise refusal(200, data, self._request.id)
        final = self._request.stoppable and bool(said.get("is_finished"))
        try:
            chunk = self._chunk(said, final)
        except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
            raise refusal(200, data, self._request.id) from error
        if not final:
            return chunk
        self._final = chunk
        return None

    def end(self) -> Chunk | None:
        """The final chunk, once the stream has ended; None if there is none."""
        # Only our events say which is the last; other models just end the stream.
        if self._final is None and not self._request.stoppable and self._index:
            self._final = self._chunk({}, final=True)
        return self._final

    def _chunk(self, said: Mapping[str, Any], final: bool) -> Chunk:
        text = _one(said.get("text_output", ""))
        if not isinstance(text, str):
            raise TypeError(f"text_output must be a string, not {text!r:.60}")
        if self._request.cumulative and said:
            text = text if final else text.rstrip("\ufffd")
            text = text[len(self._text) :]
            self._text += text
        self._finish = _one(said.get("finish_reason")) or self._finish
        self._stop = _one(said.get("stop_reason")) or self._stop
        self._inputs = int(_one(said.get("num_input_tokens")) or self._inputs)
        ids = said.get("token_ids", [])
        self._index += 1
        return Chunk(
            text,
            tuple(ids) if isinstance(ids, list) else (ids,),
            self._index - 1,
            final,
            self._finish if final else "",
            self._stop if final else "",
            int(_one(said.get("num_output_tokens")) or 0),
            self._inputs if final else 0,
            str(_one(said.get("top_logprobs")) or ""),
        )


def _one(value: Any) -> Any:
    return (value[0] if value else "") if isinstance(value, list) else value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def refusal(status: int, text: str, request_id: str) -> LlamaError:
    """The error of an answer without events: JSON of Triton's, or a gateway's page."""
    said = _json(text)
    message = said.get("error") if isinstance(said, dict) else None
    if not isinstance(message, str):
        message = text[:200] if text.strip() else f"HTTP status {status} and nothing else"
    error = error_of_message(message, request_id)
    if error.code == "UNKNOWN" and status in CODES:
        return error_of(CODES[status], message, request_id)
    return error


@dataclass(frozen=True)
class Question(Generic[Answer]):
    """A call that generates nothing: what to send, and how to read the JSON that comes back."""

    method: str
    path: str
    read: Callable[[Any], Answer]
    body: bytes = b""

    def answer(self, status: int, body: bytes) -> Answer:
        """Raises `LlamaError` for a refusal, and for JSON that does not answer the question."""
        text = body.decode(errors="replace")
        said = _json(text) if text.strip() else {}
        if said is None:
            said = {"error": text[:200]}
        message = said.get("error", "") if isinstance(said, dict) else ""
        if status != 200 or message:
            raise error_of(CODES.get(status, "INTERNAL"), str(message) or f"HTTP status {status}")
        try:
            return self.read(said)
        except (AttributeError, KeyError, TypeError) as error:
            raise ServerFailed(f"{text!r:.60} does not answer {self.method} {self.path}") from error


def health(model: str) -> tuple[Question[bool], ...]:
    """Is the server live, is it ready, is the model ready? The status 200 means yes."""
    paths = ("/v2/health/live", "/v2/health/ready", model_path(model) + "/ready")
    return tuple(Question("GET", path, bool) for path in paths)


def metadata(model: str) -> Question[ModelMetadata]:
    """A model's inputs and outputs."""
    return Question("GET", model_path(model), _metadata)


def decoupled(model: str) -> Question[bool]:
    """Whether a request may have several responses, as the model's configuration says."""
    return Question("GET", model_path(model) + "/config", _decoupled)


def statistics(model: str) -> Question[dict[str, Any]]:
    """Triton's statistics of a model."""
    return Question("GET", model_path(model) + "/stats", dict)


def stop(request_id: str) -> Question[object]:
    """Make our room 2 drop the request with this id."""
    body = json.dumps({"stop": True, "id": request_id}).encode()
    return Question("POST", "/v2/models/tensorrt_llm/generate", bool, body)


SERVER = Question("GET", "/v2", lambda said: ServerInfo(said["name"], said["version"]))
MODELS = Question("POST", "/v2/repository/index", lambda said: [_state(model) for model in said])


def _metadata(said: Any) -> ModelMetadata:
    inputs, outputs = (
        tuple(TensorInfo(t["name"], t["datatype"], tuple(t["shape"])) for t in said[kind])
        for kind in ("inputs", "outputs")
    )
    return ModelMetadata(
        said["name"], tuple(said.get("versions", [])), said.get("platform", ""), inputs, outputs
    )


def _decoupled(said: Any) -> bool:
    policy = said.get("model_transaction_policy") if isinstance(said, dict) else None
    return isinstance(policy, dict) and policy.get("decoupled") is True


def _state(model: Any) -> ModelState:
    return ModelState(
        model["name"], model.get("version", ""), model.get("state", ""), model.get("reason", "")
    )
