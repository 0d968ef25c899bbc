"""What the arguments of both clients mean: where the server is and which wire leads there."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from llama_fp4.errors import InvalidRequest
from llama_fp4.settings import Connection, Keepalive, Tls

SCHEMES = ("grpc", "grpcs", "http", "https")
# (scheme's wire, async) -> module and class; imported when wanted, as gRPC's stubs bring numpy.
TRANSPORTS = {
    ("grpc", False): ("llama_fp4.grpc_transport", "GrpcTransport"),
    ("grpc", True): ("llama_fp4.grpc_aio_transport", "GrpcAioTransport"),
    ("http", False): ("llama_fp4.http_transport", "HttpTransport"),
    ("http", True): ("llama_fp4.http_aio_transport", "HttpAioTransport"),
}


def open_transport(
    url: str,
    asynchronous: bool,
    tls: Tls | None,
    headers: Mapping[str, str] | None,
    keepalive: Keepalive,
    connect_timeout_s: float | None,
) -> Any:
    """The transport for `host:port` (gRPC) or `scheme://host:port`; nothing is sent yet."""
    scheme, mark, rest = url.partition("://")
    scheme, rest = (scheme, rest.rstrip("/")) if mark else ("grpc", url)
    host, _, port = rest.rpartition(":")
    if scheme not in SCHEMES or not host or not port.isdigit():
        raise InvalidRequest(
            f"the URL is {url!r:.80}, allowed are host:port and one of "
            f"{', '.join(SCHEMES)} before ://host:port"
        )
    named = tuple((name.lower(), value) for name, value in (headers or {}).items())
    secure = scheme in ("grpcs", "https") or tls is not None
    connection = Connection(rest, secure, tls, named, keepalive, connect_timeout_s)
    module, name = TRANSPORTS[scheme.removesuffix("s"), asynchronous]
    return getattr(importlib.import_module(module), name)(connection)
