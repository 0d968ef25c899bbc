"""How a client connects, how long it waits and how often it retries."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llama_fp4.errors import InvalidRequest, must_be
from llama_fp4.sampling import plain

LONGEST_S = 1e6  # above that clocks overflow, gRPC's first


def checked_seconds(name: str, value: Any, above_0: bool = True) -> float:
    """The seconds as a Python number. Raises `InvalidRequest` for any other value."""
    value = plain(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and 0 <= value <= LONGEST_S) or (above_0 and value == 0):
        raise must_be(name, f"seconds {'above' if above_0 else 'from'} 0 to {LONGEST_S:g}", value)
    found: float = value
    return found


def limit_of(timeout_s: Any) -> float | None:
    """A call's `timeout_s`, checked; None is no limit. Raises `InvalidRequest`."""
    return None if timeout_s is None else checked_seconds("timeout_s", timeout_s)


def _seconds(settings: Any, name: str, above_0: bool = True) -> None:
    value = checked_seconds(name, getattr(settings, name), above_0)
    object.__setattr__(settings, name, value)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; None is no limit. Each raises its own subclass of `RequestTimeout`."""

    connect: float | None = 10.0  # until the server has answered the client's first call
    first_token: float | None = None  # from sending a request to its first response
    between_tokens: float | None = None  # between two responses
    total: float | None = None  # of the whole request, all attempts and their pauses

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is not None:
                _seconds(self, field.name)


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a request is sent again, before its first token and after a retryable error.

    Before attempt n + 1 the client waits a random time of 0 to min(`longest_pause`,
    `pause` * 2^(n-1)) seconds, so that clients that failed together do not return together.
    """

    attempts: int = 2  # 1: no retry
    pause: float = 0.1
    longest_pause: float = 5.0

    def __post_init__(self) -> None:
        attempts = plain(self.attempts)
        if type(attempts) is not int or attempts < 1:
            raise must_be("attempts", "an integer of at least 1", attempts)
        object.__setattr__(self, "attempts", attempts)
        for name in ("pause", "longest_pause"):
            _seconds(self, name, above_0=False)

    def seconds_before(self, attempt: int) -> float:
        """The pause before that attempt; the first is 1."""
        return random.uniform(
            0.0, min(self.longest_pause, self.pause * 2.0 ** min(attempt - 2, 60))
        )


@dataclass(frozen=True, slots=True)
class Tls:
    """Whom to trust and, for mutual TLS, the client's own certificate. PEM: a path, or the bytes.

    Without `ca` the system's authorities are trusted. `cert` and `key` come together.
    """

    ca: bytes | str | Path | None = None
    cert: bytes | str | Path | None = None
    key: bytes | str | Path | None = None
    server_name: str = ""  # the name in the server's certificate, if not the URL's host

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InvalidRequest("cert and key must be given together, and one is missing")

    def pem(self, name: str) -> bytes | None:
        """The bytes of `ca`, `cert` or `key`. Raises `InvalidRequest` if there is no such file."""
        value = getattr(self, name)
        if value is None or isinstance(value, bytes):
            return value
        try:
            return Path(value).read_bytes()
        except OSError as error:
            raise InvalidRequest(f"{name} must be a readable file, not {value}: {error}") from error


@dataclass(frozen=True, slots=True)
class Keepalive:
    """HTTP/2 pings on a gRPC connection while a request waits; None sends none.

    A stock tritonserver ends connections that ping more often than every 300 s while it sends
    nothing (`--grpc-http2-min-recv-ping-interval-without-data`).
    """

    every_s: float | None = None
    timeout_s: float = 20.0  # the connection is given up after so long without an answer

    def __post_init__(self) -> None:
        if self.every_s is not None:
            _seconds(self, "every_s")
        _seconds(self, "timeout_s")


@dataclass(frozen=True, slots=True)
class Connection:
    """What a transport knows of the server."""

    address: str  # host:port
    secure: bool = False
    tls: Tls | None = None
    headers: tuple[tuple[str, str], ...] = ()  # sent with every call, names in lower case
    keepalive: Keepalive = Keepalive()
    connect_timeout_s: float | None = 10.0
