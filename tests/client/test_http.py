"""Servers that are none: gateways, silence, names that lead nowhere; and HTTP in pieces."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from llama_fp4 import (
    AsyncClient,
    Cancelled,
    Client,
    ConnectError,
    ConnectTimeout,
    FunctionTransport,
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
from llama_fp4.transports.http_messages import Events
from llama_fp4.transports.http_sync import HttpTransport
from serving.child_server import free_ports

from tests.support.client_chunks import three
from tests.support.processes import eventually


def test_the_first_call_obeys_the_total() -> None:
    """A server that takes connections and says nothing, and several requests that wait for it."""
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
def test_names_that_lead_nowhere(scheme: str) -> None:
    for host in ("nowhere.invalid", "a" * 70, f"[::1]:{free_ports().grpc}"):
        url = f"{scheme}{host}" if host.startswith("[") else f"{scheme}{host}:80"
        with Client(url, retries=Retries(attempts=1)) as client, pytest.raises(ConnectError):
            client.generate("Hi")

        async def main(url: str = url) -> None:
            async with AsyncClient(url, retries=Retries(attempts=1)) as client:
                with pytest.raises(ConnectError):
                    await client.generate("Hi")

        asyncio.run(main())


def test_a_socket_is_closed_when_its_call_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        transport = HttpTransport(Connection(f"127.0.0.1:{silent.getsockname()[1]}"))
        request = Request("m", "id", (), {}, ())
        unread = transport.start(request, None)
        unread.cancel()
        assert unread._socket.fileno() == -1
        read = transport.start(request, None)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read.read)
            eventually(lambda: read._reading, "the other thread reads")
            read.cancel()
            with pytest.raises(Cancelled):
                reading.result()
        assert read._socket.fileno() == -1


@contextlib.contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """A server that says this to every connection, and ends it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


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
        (plain("502 Bad Gateway", b'{"detail": "no upstream"}'), ServerBusy),
        (plain("503 Busy", b""), ServerBusy),
        (plain("401 Who", b""), Unauthenticated),
        (plain("403 No", b'{"error": {"message": "no"}}'), Unauthenticated),
        (plain("500 Oops", b"null"), ServerFailed),
    ],
)
def test_what_gateways_say_over_http(answer: bytes, kind: type[LlamaError]) -> None:
    """Both to the first call and, with the metadata known, to a request."""
    once = Retries(attempts=1)
    with saying(answer) as url:
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


def _model() -> Any:
    with Client(transport=FunctionTransport(three)) as client:
        client.generate("Hi")
        return client._model


def test_a_proxy_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
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
    request = Request("m", "id", (Tensor("t", "BYTES", (1,), ["x"]),), {}, (), stoppable=True)
    raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    for index, text in enumerate(texts):
        said = {"text_output": text, "is_finished": index == len(texts) - 1}
        event = f"data: {json.dumps(said, ensure_ascii=ascii_only)}\n\n".encode()
        raw += f"{len(event):x}\r\n".encode() + event + b"\r\n"
    raw += b"0\r\n\r\n"
    events, chunks = Events(request), []
    for at in range(0, len(raw), size):
        events.feed(raw[at : at + size])
        while (chunk := events.pop()) is not None:
            chunks.append(chunk)
    assert [chunk.text for chunk in chunks] == texts
    assert [chunk.final for chunk in chunks] == [False] * 5 + [True]
