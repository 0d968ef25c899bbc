"""Turns the arguments of both clients into a transport, by the scheme of the URL."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from llama_fp4.errors import InvalidRequest, must_be
from llama_fp4.settings import Connection, Keepalive, Tls

METRICS_PORT = 8002  # Triton's default
SCHEMES = ("grpc", "grpcs", "http", "https")
# (scheme, async) -> module and class; imported when needed, as gRPC's stubs import numpy.
TRANSPORTS = {
    ("grpc", False): ("llama_fp4.transports.grpc_sync", "GrpcTransport"),
    ("grpc", True): ("llama_fp4.transports.grpc_aio", "GrpcAioTransport"),
    ("http", False): ("llama_fp4.transports.http", "HttpTransport"),
    ("http", True): ("llama_fp4.transports.http", "HttpAioTransport"),
}


def open_transport(
    url: str,
    asynchronous: bool,
    tls: Tls | None,
    headers: Mapping[str, str] | None,
    keepalive: Keepalive,
    connect_timeout_s: float | None,
) -> Any:
    """The transport for `host:port` (gRPC) or `scheme://host:port`; nothing is sent yet.

    Raises `InvalidRequest` for any other URL, for headers that cannot be sent, and without httpx2.
    """
    scheme, address = _parsed(url)
    named = tuple(_header(name, value) for name, value in (headers or {}).items())
    secure = scheme in ("grpcs", "https") or tls is not None
    connection = Connection(address, secure, tls, named, keepalive, connect_timeout_s)
    module, name = TRANSPORTS[scheme.removesuffix("s"), asynchronous]
    try:
        transport = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != "httpx2":
            raise
        raise InvalidRequest(f"{scheme}:// needs httpx2: pip install 'llama-fp4[http]'") from error
    return transport(connection)


def metrics_url(url: str) -> str:
    """The metrics URL of the server at `url`, by the order of Triton's default ports.

    It is one port above gRPC's and two above HTTP's; the server itself does not say.

    >>> metrics_url("gpu1:9001"), metrics_url("http://gpu1:9000")
    ('http://gpu1:9002/metrics', 'http://gpu1:9002/metrics')
    """
    scheme, mark, rest = url.partition("://")
    host, _, port = (rest if mark else url).rstrip("/").rpartition(":")
    above = 2 if mark and scheme.startswith("http") else 1
    found = int(port) + above if port.isascii() and port.isdecimal() else 0
    return f"http://{host}:{found if 0 < found < 65536 else METRICS_PORT}/metrics"


def _parsed(url: str) -> tuple[str, str]:
    """The scheme and host:port. Raises `InvalidRequest`."""
    if not isinstance(url, str):
        raise must_be("the URL", "a string", url)
    scheme, mark, rest = url.partition("://")
    scheme, rest = (scheme, rest.rstrip("/")) if mark else ("grpc", url)
    host, _, port = rest.rpartition(":")
    plain = host.isprintable() and not set(" /@?#") & set(host)
    bracketed = host.startswith("[") and host.endswith("]")
    if (
        scheme not in SCHEMES
        or not host
        or not plain
        or (":" in host and not bracketed)
        or not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536)
    ):
        raise InvalidRequest(
            f"the URL must be host:port, or one of {', '.join(SCHEMES)} before ://host:port, with "
            f"a port to 65535 and [IPv6], not {url!r:.80}"
        )
    return scheme, rest


def _header(name: Any, value: Any) -> tuple[str, str]:
    # What gRPC allows; HTTP allows more.
    if (
        isinstance(name, str)
        and isinstance(value, str)
        and re.fullmatch(r"[0-9A-Za-z_.-]+", name)
        and not name.lower().endswith("-bin")
        and re.fullmatch(r"[ -~]*", value)
    ):
        return name.lower(), value
    raise InvalidRequest(  # never the value: it may be a secret
        f"the header {name!r:.60} must have a name of letters, digits, '-', '_' and '.' that does "
        "not end in -bin, and a value of one line of ASCII"
    )
