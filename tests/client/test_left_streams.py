"""Reading from a stream that was left or has failed raises."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from llama_fp4 import (
    AsyncClient,
    AsyncFunctionTransport,
    Chunk,
    Client,
    FunctionTransport,
    IncompleteStream,
    Request,
    ServerFailed,
    Stream,
)

from tests.support.cli_calls import environment
from tests.support.client_chunks import chunk, three
from tests.support.paths import ROOT

WORDS = "left or has failed after 1 response, before its final one, and cannot be read again"


def by_break(stream: Stream) -> None:
    for _ in stream:
        break


def by_close(stream: Stream) -> None:
    next(stream)
    stream.close()


def by_block(stream: Stream) -> None:
    with stream:
        next(stream)


def by_exception(stream: Stream) -> None:
    def read() -> None:
        for each in stream:
            raise ZeroDivisionError(each.index)

    with pytest.raises(ZeroDivisionError):
        read()


@pytest.mark.parametrize("read", [list, next], ids=["loop", "next"])
@pytest.mark.parametrize("leave", [by_break, by_close, by_block, by_exception])
def test_a_left_stream_raises(leave: Callable[[Stream], None], read: Callable[[Any], Any]) -> None:
    with Client(transport=FunctionTransport(three)) as client:
        stream = client.stream("Hi", request_id="mine")
        leave(stream)
        for _ in range(2):
            with pytest.raises(IncompleteStream, match=WORDS) as caught:
                read(stream)
            assert caught.value.request_id == "mine"


def test_a_failed_stream_raises() -> None:
    def failing(request: Request) -> Iterator[Chunk]:
        yield chunk(0)
        raise ServerFailed("broken")

    with Client(transport=FunctionTransport(failing)) as client:
        stream = client.stream("Hi")
        with pytest.raises(ServerFailed):
            list(stream)
        with pytest.raises(IncompleteStream, match=WORDS):
            list(stream)


def test_a_stream_is_empty_after_its_end() -> None:
    with Client(transport=FunctionTransport(three)) as client:
        stream = client.stream("Hi")
        assert len(list(stream)) == 3
        assert list(stream) == []
        assert next(stream, None) is None
        assert stream.completion.text == "xxx"
        again = client.stream("Hi")
        assert next(again).index == 0
        assert [c.index for c in again] == [1, 2]  # a loop continues after next()


async def answer(request: Request) -> AsyncIterator[Chunk]:
    for each in three(request):
        yield each


def test_async_streams() -> None:
    async def read(stream: Any) -> int:
        return len([each async for each in stream])

    async def main() -> None:
        async with AsyncClient(transport=AsyncFunctionTransport(answer)) as client:
            stream = client.stream("Hi")
            async for _ in stream:
                break
            for _ in range(2):  # at once, and again
                with pytest.raises(IncompleteStream, match=WORDS):
                    await read(stream)
            stream = client.stream("Hi")
            async with stream:
                await anext(stream)
            with pytest.raises(IncompleteStream, match=WORDS):
                await anext(stream)
            stream = client.stream("Hi")
            await stream.close()
            with pytest.raises(IncompleteStream, match="after 0 responses"):
                await read(stream)
            stream = client.stream("Hi")
            assert [await read(stream), await read(stream)] == [3, 0]
            stream = client.stream("Hi")
            await anext(stream)
            assert await read(stream) == 2

    asyncio.run(main())


GEVENT = """
from gevent import monkey; monkey.patch_all()
import gevent
from tests.support.client_chunks import three
from llama_fp4 import Client, FunctionTransport, LlamaError

def left():
    stream = client.stream("Hi")
    for _ in stream:
        break
    try:
        list(stream)
    except LlamaError as error:
        return str(error)

with Client(transport=FunctionTransport(three)) as client:
    jobs = [gevent.spawn(left) for _ in range(3)]
    gevent.joinall(jobs, raise_error=True)
    print(*[job.value for job in jobs], sep="\\n")
"""


def test_under_gevent() -> None:
    pytest.importorskip("gevent")
    paths = environment()
    paths["PYTHONPATH"] += f":{ROOT}"
    command = [sys.executable, "-c", GEVENT]
    done = subprocess.run(command, capture_output=True, text=True, env=paths, check=True)
    assert [WORDS in line for line in done.stdout.splitlines()] == [True] * 3
