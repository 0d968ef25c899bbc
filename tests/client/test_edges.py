"""Streams and clients that are left, closed, retried, dropped or used in the wrong loop."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from llama_fp4 import (
    AsyncClient,
    AsyncFunctionTransport,
    Chunk,
    Client,
    ClientClosed,
    ConnectError,
    FunctionTransport,
    InvalidRequest,
    LlamaError,
    Request,
    Retries,
    ServerBusy,
    ServerFailed,
    Timeouts,
    UnknownModel,
    UnknownOption,
)

from tests.support.client_chunks import chunk, three
from tests.support.processes import eventually

PATIENT = Retries(attempts=3, pause=0.0)


def endless(request: Request) -> Iterator[Chunk]:
    index = 0
    while True:
        yield chunk(index)
        index += 1


class Counting(FunctionTransport):
    """Counts how often the metadata is fetched."""

    asked = 0

    def metadata(self, model: str, timeout_s: float | None) -> Any:
        self.asked += 1
        return super().metadata(model, timeout_s)


def test_use_after_close_and_closing_twice() -> None:
    client = Client(transport=FunctionTransport(three))
    client.close()
    client.close()
    asked: list[Callable[[], Any]] = [
        lambda: client.generate("Hi"), client.health, client.metadata, client.models,
        client.statistics, client.server,
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
    """Raises one of its errors at each start, until none is left."""

    def __init__(self, errors: list[LlamaError], handler: Any = three) -> None:
        super().__init__(handler)
        self.errors = errors

    def start(self, request: Request, timeout_s: float | None) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return super().start(request, timeout_s)


def test_a_start_that_fails_is_retried() -> None:
    transport = Starting([ConnectError("refused"), ConnectError("refused")])
    with Client(transport=transport, retries=PATIENT) as client:
        assert client.generate("Hi").timing.attempts == 3
        transport.errors = [ConnectError("refused")] * 3
        with pytest.raises(ConnectError) as caught:
            client.generate("Hi", request_id="mine")
        assert caught.value.request_id == "mine"
    assert transport.stopped == []


def test_closing_in_the_pause_before_a_retry() -> None:
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


def test_closing_an_async_stream_in_the_pause_before_a_retry() -> None:
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


def test_the_metadata_is_fetched_again_after_the_server_refuses_an_input() -> None:
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
