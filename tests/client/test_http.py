"""HTTP: connections, limits, gateways, silent servers, unknown hosts, answers in pieces."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from llama_fp4 import (
    AsyncClient,
    BetweenTokensTimeout,
    Cancelled,
    Chunk,
    Client,
    ConnectError,
    ConnectTimeout,
    FirstTokenTimeout,
    FunctionTransport,
    IncompleteStream,
    InvalidRequest,
    LlamaError,
    Request,
    Retries,
    ServerBusy,
    ServerFailed,
    Timeouts,
    TotalTimeout,
    Unauthenticated,
)
from llama_fp4.model_contract import Tensor
from llama_fp4.settings import Connection
from llama_fp4.transports.http import HttpAioTransport, HttpTransport
from serving.child_server import free_ports

from tests.support.cli_calls import environment
from tests.support.client_chunks import three


def test_the_first_call_obeys_the_total() -> None:
    """Several requests wait for a server that accepts connections and stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        for url in (where, f"http://{where}"):
            with Client(url) as client, ThreadPoolExecutor(4) as pool:
                limits = Timeouts(total=0.3)
                asked = [pool.submit(client.generate, "Hi", timeouts=limits) for _ in range(4)]
                assert {type(one.exception()) for one in asked} == {TotalTimeout}
            once = Retries(attempts=1)
            client = Client(url, timeouts=Timeouts(connect=0.2), retries=once)
            with client, pytest.raises(ConnectTimeout):
                client.generate("Hi")


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_hosts_that_do_not_exist(scheme: str) -> None:
    for host in ("nowhere.invalid", "a" * 70, f"[::1]:{free_ports().grpc}"):
        url = f"{scheme}{host}" if host.startswith("[") else f"{scheme}{host}:80"
        with Client(url, retries=Retries(attempts=1)) as client, pytest.raises(ConnectError):
            client.generate("Hi")

        async def main(url: str = url) -> None:
            async with AsyncClient(url, retries=Retries(attempts=1)) as client:
                with pytest.raises(ConnectError):
                    await client.generate("Hi")

        asyncio.run(main())


REQUEST = Request("m", "id", (Tensor("t", "BYTES", (1,), ["x"]),), {}, (), stoppable=True)
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


def event(text: str, final: bool = False, ascii_only: bool = True) -> bytes:
    said = {"text_output": text, "is_finished": final}
    return f"data: {json.dumps(said, ensure_ascii=ascii_only)}\n\n".encode()


def test_leaving_a_call_closes_its_connection() -> None:
    """Before it is read, while a thread waits for its first token, and after that token."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        connection = Connection(f"127.0.0.1:{server.getsockname()[1]}")
        transport = HttpTransport(connection)
        unread = transport.start(REQUEST, None)
        with _accepted(server) as accepted:
            unread.cancel()
            assert accepted.recv(1) == b""
        read = transport.start(REQUEST, None)
        with _accepted(server) as accepted:
            reading = pool.submit(read.read)
            read.cancel()
            with pytest.raises(Cancelled):
                reading.result()
            assert accepted.recv(1) == b""
        late = transport.start(REQUEST, None)
        with _accepted(server) as accepted:
            accepted.sendall(EVENTS + event("a"))
            assert late.read() == Chunk("a", (), 0, False, "", "", 0, 0)
            transport.close()
            assert accepted.recv(1) == b""


def test_leaving_an_async_call_closes_its_connection() -> None:
    async def main() -> None:
        transport = HttpAioTransport(Connection(f"127.0.0.1:{server.getsockname()[1]}"))
        call = await transport.start(REQUEST, None)
        with await asyncio.to_thread(_accepted, server) as accepted:
            reading = asyncio.ensure_future(call.read())
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(Cancelled):
                await reading
            assert await asyncio.to_thread(accepted.recv, 1) == b""
        await transport.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        asyncio.run(main())


def test_300_calls_wait_at_once() -> None:
    """Each is sent at once over its own connection, and none waits for another."""
    with socket.create_server(("127.0.0.1", 0), backlog=300) as server, ExitStack() as accepted:
        connection = Connection(f"127.0.0.1:{server.getsockname()[1]}")
        transport = HttpTransport(connection)
        for _ in [transport.start(REQUEST, None) for _ in range(300)]:
            accepted.enter_context(_accepted(server))
        transport.close()

        async def main() -> None:
            asynchronous = HttpAioTransport(connection)
            for _ in [await asynchronous.start(REQUEST, None) for _ in range(300)]:
                accepted.enter_context(await asyncio.to_thread(_accepted, server))
            await asynchronous.close()

        asyncio.run(main())


def _accepted(server: socket.socket) -> socket.socket:
    """The next connection, once its whole request was read."""
    connection = server.accept()[0]
    whole_request(connection)
    return connection


def whole_request(connection: socket.socket) -> bytes:
    """Reads to the end of the request: closing before that would reset the connection."""
    head, body = b"", b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(65536)
        if not data:
            return b""
        head += data
    head, _, body = head.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    while length and len(body) < int(length[1]):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def test_the_limits_of_a_stream_over_http() -> None:
    """The server sends no event, only one, or events without end."""
    cases: list[tuple[Iterable[bytes], Timeouts, type[LlamaError]]] = [
        ([], Timeouts(first_token=0.2), FirstTokenTimeout),
        ([event("a")], Timeouts(between_tokens=0.2), BetweenTokensTimeout),
        (itertools.repeat(event("a")), Timeouts(total=0.2), TotalTimeout),
    ]
    for events, limits, kind in cases:
        with sending_events(events) as url:
            with Client(url) as client:
                client._model = _model()
                with pytest.raises(kind) as caught:
                    list(client.stream("Hi", timeouts=limits))

            async def main(url: str = url, limits: Timeouts = limits) -> type[LlamaError]:
                async with AsyncClient(url) as client:
                    client._model = _model()
                    with pytest.raises(LlamaError) as caught:
                        async for _ in client.stream("Hi", timeouts=limits):
                            pass
                return type(caught.value)

            assert (type(caught.value), asyncio.run(main())) == (kind, kind)


@contextlib.contextmanager
def sending_events(events: Iterable[bytes]) -> Iterator[str]:
    """A server that sends these events, then waits until the client leaves."""

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if b"/generate_stream" not in whole_request(connection):  # the client stops the request
                return
            connection.sendall(EVENTS)
            for one in events:
                connection.sendall(one)
            connection.recv(1)

    with listening(serve) as url:
        yield url


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server with a thread for each connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in (accepting, *threads):
        thread.join()


@contextlib.contextmanager
def sending(answer: bytes) -> Iterator[str]:
    """A server that sends this over every connection and closes it."""

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            whole_request(connection)
            connection.sendall(answer)

    with listening(serve) as url:
        yield url


def plain(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"SSH-2.0-server\r\n\r\n", ServerFailed),
        (b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n", ServerFailed),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nab\r\n", ServerFailed),
        (plain("200 OK", b"<html>a portal</html>"), ServerFailed),
        (plain("200 OK", b"[1]"), ServerFailed),
        (EVENTS + b"data: <html>\n\n", ServerFailed),
        (EVENTS + b'data: {"text_output": 5}\n\n', ServerFailed),
        (EVENTS + b'data: {"num_output_tokens": "x"}\n\n', ServerFailed),
        (EVENTS + b'data: {"num_output_tokens": 1e999}\n\n', ServerFailed),
        (plain("502 Bad Gateway", b'{"detail": "no upstream"}'), ServerBusy),
        (plain("503 Busy", b""), ServerBusy),
        (plain("401 Who", b""), Unauthenticated),
        (plain("403 No", b'{"error": {"message": "no"}}'), Unauthenticated),
        (plain("500 Oops", b"null"), ServerFailed),
    ],
)
def test_answers_that_are_not_the_ensembles(answer: bytes, kind: type[LlamaError]) -> None:
    """In answer to the call for the metadata and, once that is known, to a request."""
    once = Retries(attempts=1)
    with sending(answer) as url:
        for known in (False, True):
            with Client(url, retries=once) as client:
                if known:
                    client._model = _model()
                with pytest.raises(LlamaError) as caught:
                    client.generate("Hi")
                assert type(caught.value) is kind
                assert caught.value.request_id or not known

            async def main(known: bool = known) -> type[LlamaError]:
                async with AsyncClient(url, retries=once) as client:
                    if known:
                        client._model = _model()
                    with pytest.raises(LlamaError) as caught:
                        await client.generate("Hi")
                return type(caught.value)

            assert asyncio.run(main()) is kind


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(b'data: {"error": "[UNAVAILABLE] full"}\n\n', ServerBusy), (b"", IncompleteStream)],
)
def test_a_stream_without_an_answer(answer: bytes, kind: type[LlamaError]) -> None:
    with sending(EVENTS + answer) as url, Client(url, retries=Retries(attempts=1)) as client:
        client._model = _model()
        with pytest.raises(kind):
            client.generate("Hi")


def _model() -> Any:
    with Client(transport=FunctionTransport(three)) as client:
        client.generate("Hi")
        return client._model


def test_a_proxy_in_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    server = grpc.server(ThreadPoolExecutor(1), handlers=[_Live()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Client(f"127.0.0.1:{port}") as client:
        with pytest.raises(LlamaError) as caught:
            client.metadata()
        assert caught.value.code == "NOT_FOUND"
    server.stop(None)


class _Live(grpc.GenericRpcHandler):
    def service(self, details: Any) -> Any:
        def refuse(request: bytes, context: Any) -> bytes:
            context.abort(grpc.StatusCode.NOT_FOUND, "asked")
            raise AssertionError

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_unicode_over_http_in_pieces_of_any_size(size: int, ascii_only: bool) -> None:
    texts = ["é", "漢", "🙂", "👩\u200d👩", "\n\n", "data: x"]
    raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"
    raw += b"content-type: text/event-stream; charset=utf-8\r\n\r\n"
    for index, text in enumerate(texts):
        data = event(text, index == len(texts) - 1, ascii_only)
        raw += f"{len(data):x}\r\n".encode() + data + b"\r\n"
    raw += b"0\r\n\r\n"

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            whole_request(connection)
            for at in range(0, len(raw), size):
                connection.sendall(raw[at : at + size])

    with listening(serve) as url:
        transport = HttpTransport(Connection(url.removeprefix("http://")))
        call = transport.start(REQUEST, None)
        chunks = list(iter(call.read, None))
        transport.close()
    assert [chunk.text for chunk in chunks] == texts
    assert [chunk.final for chunk in chunks] == [False] * 5 + [True]


def test_without_httpx2_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    monkeypatch.delitem(sys.modules, "llama_fp4.transports.http")
    with pytest.raises(
        InvalidRequest, match=r"http:// needs httpx2: pip install 'llama-fp4\[http\]'"
    ):
        Client("http://127.0.0.1:8000")
    with Client("127.0.0.1:8001") as client:  # gRPC does not need it
        assert not client.is_ready()


def test_headers_are_sent_without_blanks_around_their_values() -> None:
    sent: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            sent.append(whole_request(connection))
            connection.sendall(plain("200 OK", b"{}"))

    headers = {"Authorization": " Bearer secret "}
    with listening(serve) as url, Client(url, headers=headers) as client:
        assert client.statistics() == {}
    assert b"\r\nauthorization: Bearer secret\r\n" in sent[0]
    assert sent[0].startswith(b"GET /v2/models/ensemble/stats HTTP/1.1\r\n")


GEVENT = """
from gevent import monkey; monkey.patch_all()
import gevent, socket, sys
from llama_fp4 import Client, FirstTokenTimeout, InvalidRequest, Timeouts
from llama_fp4.model_contract import Model
from llama_fp4.transports.base import METADATA

client = Client(sys.argv[1])
client._model = Model(METADATA)
client._model.decoupled = True
beats = []
gevent.spawn(lambda: [beats.append(gevent.sleep(0.01)) for _ in range(1000)])

def ask():
    try:
        list(client.stream("Hi", timeouts=Timeouts(first_token=0.5)))
    except FirstTokenTimeout:
        return "late"

jobs = [gevent.spawn(ask) for _ in range(20)]
gevent.joinall(jobs, raise_error=True)
print({job.value for job in jobs}, len(beats) > 10)
"""


def test_under_gevent() -> None:
    pytest.importorskip("gevent")
    with sending_events([]) as url:
        command = [sys.executable, "-c", GEVENT, url]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.stdout == "{'late'} True\n", done.stderr
