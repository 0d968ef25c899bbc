"""Every error that a call can end with.

    LlamaError
    ├── InvalidRequest            the request is wrong; also a ValueError
    │   ├── UnknownModel          the server has no such model
    │   ├── UnknownOption         the model has no such input
    │   └── UnsupportedRequest    the model has it, but its runtime lacks it
    ├── Unauthenticated           credentials are missing, wrong or insufficient
    ├── ConnectionFailed          the connection failed
    │   ├── ConnectError          nobody listens, or no such host    (retryable)
    │   ├── TlsError              the two ends do not trust each other
    │   └── ConnectionLost        it broke while the request ran     (retryable)
    ├── RequestTimeout            a limit of `Timeouts`
    │   ├── ConnectTimeout                                           (retryable)
    │   ├── FirstTokenTimeout
    │   ├── BetweenTokensTimeout
    │   └── TotalTimeout
    ├── ServerBusy                a full queue, a restarting engine  (retryable)
    ├── ServerFailed              the server failed in the request
    ├── Cancelled                 the server, or somebody by the id, cancelled it
    ├── IncompleteStream          the stream ended without its final response
    └── ClientClosed              the client was closed

Retryable means that the same request may succeed a moment later. The client itself retries only
before the first token (`Retries`).
"""

from __future__ import annotations

# Where gRPC's name of a status is not Triton's.
GRPC_NAMES = {"INVALID_ARG": "INVALID_ARGUMENT", "UNSUPPORTED": "UNIMPLEMENTED"}


class LlamaError(RuntimeError):
    """The base class: a call that gave no answer.

    `code` is gRPC's name of the status ("INVALID_ARGUMENT"), over HTTP too; `request_id` is "" if
    no request was made; `retryable` says whether the same request may succeed a moment later.
    """

    code = "UNKNOWN"
    retryable = False

    def __init__(
        self, message: str, code: str = "", request_id: str = "", retryable: bool | None = None
    ) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.request_id = request_id
        self.retryable = type(self).retryable if retryable is None else retryable


class InvalidRequest(LlamaError, ValueError):
    """The request is wrong: the message names the argument, its value and what it must be."""

    code = "INVALID_ARGUMENT"


class UnknownModel(InvalidRequest):
    """The server has no model of this name."""

    code = "NOT_FOUND"


class UnknownOption(InvalidRequest):
    """The model has no input of this name."""


class UnsupportedRequest(InvalidRequest):
    """The model has this input, but its runtime does not support it."""

    code = "UNIMPLEMENTED"


class Unauthenticated(LlamaError):
    """Credentials are missing, wrong or insufficient (PERMISSION_DENIED)."""

    code = "UNAUTHENTICATED"


class ConnectionFailed(LlamaError):
    """The server could not be reached, or could not answer."""

    code = "UNAVAILABLE"


class ConnectError(ConnectionFailed):
    """Nobody listens at the address, or the host is unknown."""

    retryable = True


class TlsError(ConnectionFailed):
    """The two ends do not trust each other, or one of them does not speak TLS."""


class ConnectionLost(ConnectionFailed):
    """The connection broke while the request ran. The server may have completed it."""

    retryable = True


class RequestTimeout(LlamaError):
    """One of `Timeouts`' limits; the request has been cancelled on the server."""

    code = "DEADLINE_EXCEEDED"


class ConnectTimeout(RequestTimeout):
    """The server did not answer the first call within `Timeouts.connect`."""

    retryable = True


class FirstTokenTimeout(RequestTimeout):
    """No token came within `Timeouts.first_token`."""


class BetweenTokensTimeout(RequestTimeout):
    """No further token came within `Timeouts.between_tokens`."""


class TotalTimeout(RequestTimeout):
    """The answer was not complete within `Timeouts.total`."""


class ServerBusy(LlamaError):
    """The server is temporarily unable: its queue is full, or its engine restarts."""

    code = "UNAVAILABLE"
    retryable = True


class ServerFailed(LlamaError):
    """The server failed while it handled the request."""

    code = "INTERNAL"


class Cancelled(LlamaError):
    """The server, or somebody who knows the request's id, cancelled it."""

    code = "CANCELLED"


class IncompleteStream(LlamaError):
    """The stream ended without its final response; the answer is not complete."""


class ClientClosed(LlamaError):
    """The client was closed."""

    code = "CANCELLED"


def must_be(name: str, what: str, value: object) -> InvalidRequest:
    """The error of a wrong argument: "max_tokens must be an integer of at least 1, not 4.5"."""
    return InvalidRequest(f"{name} must be {what}, not {value!r:.60}")


CLASSES: dict[str, type[LlamaError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "NOT_FOUND": UnknownModel,
    "UNIMPLEMENTED": UnsupportedRequest,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": Unauthenticated,
    "DEADLINE_EXCEEDED": TotalTimeout,
    "UNAVAILABLE": ServerBusy,
    "RESOURCE_EXHAUSTED": ServerBusy,
    "CANCELLED": Cancelled,
}


def error_of(code: str, message: str, request_id: str = "") -> LlamaError:
    """The error of a status that the server has answered with."""
    kind = CLASSES.get(code, ServerFailed)
    return kind(message or code, code, request_id)


def error_of_message(message: str, request_id: str = "") -> LlamaError:
    """The error of a message in a stream, which carries no status.

    Our rooms put Triton's code before the message (`named_errors`). From upstream's, which do not,
    only Triton's own sentences are recognised; all others become `ServerFailed` with UNKNOWN.
    """
    _, bracket, named = message.partition("[")
    code, end, text = named.partition("] ")
    if bracket and end and code.isupper():
        return error_of(GRPC_NAMES.get(code, code), text, request_id)
    if "unknown model" in message:
        return UnknownModel(message, request_id=request_id)
    if "unexpected inference" in message:  # input, or output
        return UnknownOption(message, request_id=request_id)
    if "cancelled" in message.lower():
        return Cancelled(message, request_id=request_id)
    return ServerFailed(message, "UNKNOWN", request_id)
