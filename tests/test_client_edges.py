"""What a client meets that is no answer: odd arguments, odd servers, loops and the collector.

No tritonserver here: a raw socket or a gRPC server of a few lines does what Triton never would.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from llama_fp4 import (
    AsyncClient,
    AsyncFunctionTransport,
    Cancelled,
    Chunk,
    Client,
    ClientClosed,
    ConnectError,
    ConnectTimeout,
    FunctionTransport,
    InvalidRequest,
    Keepalive,
    LlamaError,
    Request,
    Retries,
    ServerBusy,
    ServerFailed,
    Timeouts,
    TotalTimeout,
    Unauthenticated,
    UnknownModel,
    UnknownOption,
)
from llama_fp4.grpc_wire import Reader, options
from llama_fp4.http_transport import HttpTransport
from llama_fp4.settings import Connection
from processes import eventually
from server_process import free_ports
from test_client import chunk, three
from tritonclient.grpc import service_pb2 as pb

NAN = float("nan")
PATIENT = Retries(attempts=3, pause=0.0)


def endless(request: Request) -> Iterator[Chunk]:
    index = 0
    while True:
        yield chunk(index)
        index += 1


class Counting(FunctionTransport):
    """Counts how often the metadata is asked for."""

    asked = 0

    def metadata(self, model: str, timeout_s: float | None) -> Any:
        self.asked += 1
        return super().metadata(model, timeout_s)


@pytest.mark.parametrize(
    "prompt",
    [None, 5, b"bytes", (m for m in ()), [], [None], ["text"], [{}], [{"role": 1}],
     [{"role": "user", "content": b"x"}], [{"role": "user", "content": NAN}]],
)  # fmt: skip
def test_wrong_prompts_are_not_sent(prompt: Any) -> None:
    transport = FunctionTransport(three)
    with (
        Client(transport=transport) as client,
        pytest.raises(InvalidRequest, match=r"allowed|JSON"),
    ):
        client.generate(prompt)
    assert transport.requests == []


@pytest.mark.parametrize("request_id", [5, b"id", "two\nlines", "\ud800"])
def test_wrong_request_ids(request_id: Any) -> None:
    client = Client(transport=FunctionTransport(three))
    with client, pytest.raises(InvalidRequest, match="request_id is"):
        client.stream("Hi", request_id=request_id)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Timeouts(total=NAN),
        lambda: Timeouts(total=float("inf")),
        lambda: Timeouts(connect="5"),  # type: ignore[arg-type]
        lambda: Timeouts(first_token=True),
        lambda: Retries(pause="1"),  # type: ignore[arg-type]
        lambda: Retries(attempts=1.5),  # type: ignore[arg-type]
        lambda: Keepalive(every_s=0),
        lambda: Keepalive(every_s=NAN),
        lambda: Keepalive(timeout_s=-1),
        lambda: Client("h:99999"),
        lambda: Client("::1:8001"),
        lambda: Client("http://a b:1"),
        lambda: Client("http://user@h:1"),
        lambda: Client(None),  # type: ignore[arg-type]
        lambda: Client("h:1", headers={"a b": "c"}),
        lambda: Client("h:1", headers={"a": "b\nc"}),
        lambda: Client("h:1", headers={"a": "é"}),
        lambda: Client("h:1", headers={"a-bin": "x"}),
        lambda: Client("h:1", headers={"a": None}),  # type: ignore[dict-item]
    ],
)
def test_wrong_settings_are_named(make: Callable[[], Any]) -> None:
    with pytest.raises(InvalidRequest, match="allowed"):
        make()


def test_many_attempts_have_a_pause() -> None:
    assert 0.0 <= Retries(attempts=5000).seconds_before(5000) <= 5.0


def test_several_answers_are_refused_by_name() -> None:
    client = Client(transport=FunctionTransport(three))
    with client, pytest.raises(UnknownOption, match="num_return_sequences is not offered here"):
        client.generate("Hi", num_return_sequences=2)


def test_use_after_close_and_closing_twice() -> None:
    client = Client(transport=FunctionTransport(three))
    client.close()
    client.close()
    asked: list[Callable[[], Any]] = [
        lambda: client.generate("Hi"), client.health, client.metadata, client.models,
        client.statistics,
    ]  # fmt: skip
    for ask in asked:
        with pytest.raises(ClientClosed):
            ask()
    assert not client.is_ready()

    async def main() -> None:
        for url in ("127.0.0.1:1", "http://127.0.0.1:1"):
            asynchronous = AsyncClient(url)
            await asynchronous.close()
            await asynchronous.close()
            with pytest.raises(ClientClosed):
                await asynchronous.generate("Hi")
            with pytest.raises(ClientClosed):
                await asynchronous.health()

    asyncio.run(main())


class Starting(FunctionTransport):
    """Fails to start as often as it has errors, as HTTP does when it does not connect."""

    def __init__(self, errors: list[LlamaError], handler: Any = three) -> None:
        super().__init__(handler)
        self.errors = errors
        self.on_error = lambda: None

    def start(self, request: Request, timeout_s: float | None) -> Any:
        if self.errors:
            self.on_error()
            raise self.errors.pop(0)
        return super().start(request, timeout_s)


def test_a_start_that_fails_is_tried_again() -> None:
    transport = Starting([ConnectError("refused"), ConnectError("refused")])
    with Client(transport=transport, retries=PATIENT) as client:
        assert client.generate("Hi").timing.attempts == 3
        transport.errors = [ConnectError("refused")] * 3
        with pytest.raises(ConnectError) as caught:
            client.generate("Hi", request_id="mine")
        assert caught.value.request_id == "mine"
    assert transport.stopped == []


def test_closing_in_the_pause_before_an_attempt_ends_it() -> None:
    def busy(request: Request) -> Iterator[Chunk]:
        raise ServerBusy("full")
        yield

    class Closing(Retries):
        def seconds_before(self, attempt: int) -> float:
            stream.close()
            return 0.0

    transport = FunctionTransport(busy)
    with Client(transport=transport, retries=Closing(attempts=3)) as client:
        stream = client.stream("Hi")
        assert list(stream) == []
    assert len(transport.requests) == 1


def test_closing_in_the_pause_of_an_async_stream_ends_it() -> None:
    async def busy(request: Request) -> AsyncIterator[Chunk]:
        raise ServerBusy("full")
        yield

    class Closing(Retries):
        def seconds_before(self, attempt: int) -> float:
            streams[0]._leave()
            return 0.0

    async def main() -> None:
        transport = AsyncFunctionTransport(busy)
        async with AsyncClient(transport=transport, retries=Closing(attempts=3)) as client:
            streams.append(client.stream("Hi"))
            assert [chunk async for chunk in streams[0]] == []
        assert len(transport.requests) == 1

    streams: list[Any] = []
    asyncio.run(main())


@pytest.mark.parametrize("limits", [Timeouts(), Timeouts(between_tokens=60.0)])
def test_a_dropped_stream_is_stopped(limits: Timeouts) -> None:
    transport = FunctionTransport(endless)
    with Client(transport=transport) as client:
        stream = client.stream("Hi", request_id="mine", timeouts=limits)
        next(stream)
        del stream
        gc.collect()
        eventually(lambda: transport.stopped == ["mine"], "the request is stopped")


@pytest.mark.parametrize("limits", [Timeouts(), Timeouts(between_tokens=60.0)])
def test_a_dropped_async_stream_is_stopped(limits: Timeouts) -> None:
    async def main() -> None:
        async def forever(request: Request) -> AsyncIterator[Chunk]:
            for one in endless(request):
                yield one

        transport = AsyncFunctionTransport(forever)
        async with AsyncClient(transport=transport) as client:
            stream = client.stream("Hi", request_id="mine", timeouts=limits)
            await stream.__anext__()
            del stream
            gc.collect()
            for _ in range(1000):
                await asyncio.sleep(0)
            assert transport.stopped == ["mine"]

    asyncio.run(main())


def test_errors_thrown_into_the_iterator_stop_it() -> None:
    transport = FunctionTransport(endless)
    with Client(transport=transport) as client:
        iterator: Any = iter(client.stream("Hi", request_id="mine"))
        next(iterator)
        with pytest.raises(KeyError):
            iterator.throw(KeyError("thrown"))
    assert transport.stopped == ["mine"]


def test_a_second_event_loop_is_refused() -> None:
    async def three_async(request: Request) -> AsyncIterator[Chunk]:
        for one in three(request):
            yield one

    client = AsyncClient(transport=AsyncFunctionTransport(three_async))
    assert asyncio.run(_generate(client)) == "xxx"
    with pytest.raises(InvalidRequest, match="another event loop"):
        asyncio.run(_generate(client))


async def _generate(client: AsyncClient) -> str:
    return (await client.generate("Hi")).text


def test_the_metadata_is_asked_anew_after_the_server_refuses_an_input() -> None:
    def refuse(request: Request) -> Iterator[Chunk]:
        raise error
        yield

    for error, asked in (
        (UnknownOption("unexpected inference input"), 2),
        (UnknownModel("unknown model"), 2),
        (ServerFailed("broken"), 1),
    ):
        transport = Counting(refuse)
        with Client(transport=transport) as client:
            for _ in range(2):
                with pytest.raises(type(error)):
                    client.generate("Hi")
        assert transport.asked == asked


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


def response(**outputs: bytes) -> Any:
    message = pb.ModelInferResponse()
    for name, value in outputs.items():
        message.outputs.add(name=name, datatype="BYTES", shape=[1])
        message.raw_output_contents.append(len(value).to_bytes(4, "little") + value)
    return message


def test_responses_with_as_many_outputs_in_another_order() -> None:
    reader = Reader(cumulative=False)
    first = reader.read(response(text_output=b"a", finish_reason=b"stop"))
    second = reader.read(response(stop_reason=b"x", text_output=b"b"))
    assert (first.text, second.text) == ("a", "b")


def test_keepalive_becomes_pings() -> None:
    """gRPC's own counters are not to be seen from Python; what it is told is."""
    told = dict(options(Connection("h:1", keepalive=Keepalive(every_s=1.5, timeout_s=0.25))))
    assert told["grpc.keepalive_time_ms"] == 1500
    assert told["grpc.keepalive_timeout_ms"] == 250
    assert "grpc.keepalive_time_ms" not in dict(options(Connection("h:1")))


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
