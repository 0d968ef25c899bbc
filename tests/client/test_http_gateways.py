"""HTTP through gateways: what the client sends, follows and logs, and what a proxy may add."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from llama_fp4 import AsyncClient, Client, InvalidRequest, LlamaError, Retries, Tls, TotalTimeout
from llama_fp4.settings import Connection
from llama_fp4.transports.http import HttpAioTransport, HttpTransport

from tests.client.test_http import (
    EVENTS,
    REQUEST,
    event,
    listening,
    plain,
    sending,
    whole_request,
)
from tests.support.processes import PATIENCE_S

ONCE = Retries(attempts=1)


def both_clients(
    url: str,
    ask: Callable[[Client], Any],
    ask_async: Callable[[AsyncClient], Awaitable[Any]],
    headers: dict[str, str] | None = None,
) -> None:
    with Client(url, retries=ONCE, headers=headers) as client:
        ask(client)

    async def main() -> None:
        async with AsyncClient(url, retries=ONCE, headers=headers) as client:
            await ask_async(client)

    asyncio.run(main())


def test_the_environment_adds_nothing_and_cookies_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No proxy, no password of .netrc, no cookie of an earlier answer."""
    for scheme in ("http", "https", "all"):
        for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    sent: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            sent.append(whole_request(connection).lower())
            answer = plain("200 OK", b"{}").replace(b"\r\n", b"\r\nset-cookie: session=1\r\n", 1)
            connection.sendall(answer)

    async def twice(client: AsyncClient) -> None:
        await client.statistics()
        await client.statistics()

    with listening(serve) as url:
        both_clients(url, lambda client: (client.statistics(), client.statistics()), twice)
    assert len(sent) == 4
    assert not any(b"authorization" in one or b"cookie" in one for one in sent)


def test_a_redirect_is_not_followed() -> None:
    """Its target would get the credentials."""
    reached: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            reached.append(whole_request(connection))
            connection.sendall(plain("200 OK", b"{}"))

    def refused(client: Client) -> None:
        with pytest.raises(LlamaError, match="HTTP status 307"):
            client.statistics()

    async def refused_async(client: AsyncClient) -> None:
        with pytest.raises(LlamaError, match="HTTP status 307"):
            await client.statistics()

    with listening(serve) as target:
        location = f"\r\nlocation: {target}/v2\r\n".encode()
        answer = plain("307 Temporary Redirect", b"").replace(b"\r\n", location, 1)
        with sending(answer) as url:
            both_clients(url, refused, refused_async, {"authorization": "Bearer secret"})
    assert reached == []


def test_requests_log_nothing_at_info(caplog: pytest.LogCaptureFixture) -> None:
    async def ask(client: AsyncClient) -> None:
        await client.statistics()

    with caplog.at_level(logging.INFO), sending(plain("200 OK", b"{}")) as url:
        both_clients(url, lambda client: client.statistics(), ask)
    assert caplog.messages == []


def test_an_answer_that_trickles_in_obeys_the_limit() -> None:
    """Each read is quick, and the head of the answer never ends."""
    left = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            whole_request(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while not left.wait(0.02):
                connection.sendall(b"x: y\r\n")

    def ask(client: Client) -> None:
        with pytest.raises(TotalTimeout):
            client.metadata(timeout_s=0.2)

    async def ask_async(client: AsyncClient) -> None:
        with pytest.raises(TotalTimeout):
            await client.metadata(timeout_s=0.2)

    release = threading.Timer(PATIENCE_S, left.set)  # a client that waits on must not hang the test
    release.start()
    with listening(serve) as url:
        both_clients(url, ask, ask_async)
        assert not left.is_set()
    release.cancel()


def test_cancelling_in_a_tls_handshake_ends_the_thread() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        transport = HttpTransport(Connection(address, secure=True, connect_timeout_s=None))
        before = set(threading.enumerate())
        call = transport.start(REQUEST, None)
        (thread,) = set(threading.enumerate()) - before
        with silent.accept()[0] as accepted:
            assert accepted.recv(1)  # the client's hello
            call.cancel()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        transport.close()


STREAM = event("a") + event("é漢", True, ascii_only=False)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (EVENTS, b"\xef\xbb\xbf" + STREAM),  # a byte order mark
        (EVENTS, b": ping\n\n" + STREAM),
        (EVENTS, b"retry: 1000\n\n" + STREAM),
        (EVENTS, b"id: 7\n\n" + STREAM),
        (EVENTS, b"event: ping\ndata:\n\n" + STREAM),
        (EVENTS, b"event: message\n" + STREAM),
        (EVENTS, STREAM.replace(b"\n", b"\r\n")),
        (EVENTS, STREAM.replace(b"\n", b"\r")),
        (EVENTS.replace(b"stream\r\n", b"stream; charset=iso-8859-1\r\n"), STREAM),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + EVENTS, STREAM),
        (EVENTS.replace(b"1.1", b"1.0"), STREAM),
        (
            EVENTS.replace(b"\r\n\r\n", f"\r\ncontent-length: {len(STREAM)}\r\n\r\n".encode()),
            STREAM,
        ),
    ],
)
def test_what_a_proxy_may_change_in_an_event_stream(head: bytes, body: bytes) -> None:
    with sending(head + body) as url:
        assert texts(url) == (["a", "é漢"], ["a", "é漢"])


def test_line_separators_of_unicode_are_text() -> None:
    text = "a\u2028b\u2029c\x85d\x0b\x0c\x1ce"
    with sending(EVENTS + event(text, True, ascii_only=False)) as url:
        assert texts(url) == ([text], [text])


def texts(url: str) -> tuple[list[str], list[str]]:
    """Of the chunks that both transports read."""
    connection = Connection(url.removeprefix("http://"))
    transport = HttpTransport(connection)
    call = transport.start(REQUEST, None)
    found = [chunk.text for chunk in iter(call.read, None)]
    transport.close()

    async def main() -> list[str]:
        asynchronous = HttpAioTransport(connection)
        reading = await asynchronous.start(REQUEST, None)
        found = []
        while (chunk := await reading.read()) is not None:
            found.append(chunk.text)
        await asynchronous.close()
        return found

    return found, asyncio.run(main())


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding"])
def test_headers_that_the_client_sets_itself(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"the header {name.lower()} must be left"):
        Client("http://127.0.0.1:8000", headers={name: "5"})


def test_an_empty_ca_does_not_trust_the_system(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("\n")
    for ca in (b"", tmp_path / "ca.pem"):
        with pytest.raises(InvalidRequest, match="ca must be PEM"):
            Client("https://127.0.0.1:8000", tls=Tls(ca=ca))
