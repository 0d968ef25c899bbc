"""Errors in OpenAI's form, with the HTTP status that its clients act on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from llama_fp4.errors import (
    Cancelled,
    ConnectionFailed,
    ConnectTimeout,
    InvalidRequest,
    LlamaError,
    RequestTimeout,
    ServerBusy,
    Unauthenticated,
    UnknownModel,
    UnsupportedRequest,
)

RETRY_AFTER_S = 1
QUEUE_WORDS = (
    "queue size"  # room 2's refusal of a full queue; a restarting engine has the same code
)
LENGTH_WORDS = ("must make at most", "must have less than", "must have no more than")
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


@dataclass
class ApiError(Exception):
    """What a client is told: a status, one sentence, and the request's field that is wrong."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    allow: str | None = None  # the methods of a path, for 405

    def __str__(self) -> str:
        return self.message

    @property
    def document(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else TYPES[400])
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def body(self) -> bytes:
        """The body of the answer, as JSON."""
        return json.dumps(self.document, ensure_ascii=False).encode(errors="replace")

    @property
    def headers(self) -> dict[str, str]:
        """When a client may try again; which credentials are missing."""
        if self.status in (429, 503):
            return {"retry-after": str(RETRY_AFTER_S)}
        if self.status in (408, 413):  # the rest of the body may still come
            return {"connection": "close"}
        if self.allow is not None:
            return {"allow": self.allow}
        return {"www-authenticate": "Bearer"} if self.status == 401 else {}


def wrong(param: str, message: str, code: str | None = "invalid_value") -> ApiError:
    """400 for one field of the request."""
    return ApiError(400, message, param, code)


def of_server(error: LlamaError, param: str | None = None) -> ApiError:
    """The error of a call of the Triton server, whose sentence the client gets."""
    message = " ".join(str(error).split()) or error.code
    if isinstance(error, UnknownModel):
        return ApiError(503, f"the server behind this gateway is not ready: {message}")
    if isinstance(error, InvalidRequest):
        code = "unsupported_parameter" if isinstance(error, UnsupportedRequest) else "invalid_value"
        if any(words in message for words in LENGTH_WORDS):
            code = "context_length_exceeded"
        return ApiError(400, message, param, code)
    if isinstance(error, ServerBusy):
        if QUEUE_WORDS in message:
            return ApiError(429, message, code="rate_limit_exceeded")
        return ApiError(503, message, code="server_busy")
    if isinstance(error, (ConnectionFailed, ConnectTimeout)):
        return ApiError(503, f"the server behind this gateway does not answer: {message}")
    if isinstance(error, Unauthenticated):
        return ApiError(503, "the server behind this gateway refuses the gateway's credentials")
    if isinstance(error, RequestTimeout):
        return ApiError(408, message, code="timeout")
    if isinstance(error, Cancelled):
        return ApiError(499, message, code="cancelled")
    return ApiError(500, message, code="server_error")


INTERNAL = ApiError(500, "the gateway failed while it handled the request", code="server_error")
