"""The client without a server: its transport is a function."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from llama_fp4 import (
    AsyncClient,
    AsyncFunctionTransport,
    Chunk,
    Client,
    ConnectError,
    FunctionTransport,
    IncompleteStream,
    LlamaError,
    ModelMetadata,
    Request,
    Retries,
    SamplingParams,
    ServerBusy,
    ServerFailed,
    Timeouts,
    TotalTimeout,
    UnknownOption,
)
from llama_fp4.transports.base import METADATA

from tests.support.client_chunks import chunk, three

AT_ONCE = Retries(attempts=3, pause=0.0)


def failing(errors: list[LlamaError], after: int = 0) -> Callable[[Request], Iterator[Chunk]]:
    """Raises one of the errors in each attempt, until none is left."""

    def handler(request: Request) -> Iterator[Chunk]:
        yield from (chunk(index) for index in range(after))
        if errors:
            raise errors.pop(0)
        yield chunk(after, final=True)

    return handler


def test_a_completion_is_its_chunks() -> None:
    with Client(transport=FunctionTransport(three)) as client:
        answer = client.generate("Hi", request_id="mine")
    assert (str(answer), answer.token_ids, answer.finish_reason) == ("xxx", (0, 1, 2), "stop")
    assert (answer.num_input_tokens, answer.num_output_tokens) == (4, 3)
    assert answer.request_id == "mine"
    timing = answer.timing
    assert timing.ttft_s is not None
    assert timing.e2e_s is not None
    assert timing.tpot_s is not None
    assert 0 <= timing.ttft_s <= timing.e2e_s


def test_what_is_sent() -> None:
    transport = FunctionTransport(three)
    with Client(transport=transport) as client:
        client.generate("Hi", SamplingParams(temperature=0.5, stop_words=["a", "b"]), top_k=3)
    (request,) = transport.requests
    sent = {tensor.name: (tensor.datatype, list(tensor.values)) for tensor in request.tensors}
    assert sent == {
        "text_input": ("BYTES", ["Hi"]),
        "stream": ("BOOL", [False]),
        "max_tokens": ("INT32", [128]),
        "temperature": ("FP32", [0.5]),
        "top_k": ("INT32", [3]),
        "stop_words": ("BYTES", ["a", "b"]),
        "return_token_ids": ("BOOL", [True]),
    }
    assert transport.closed


def test_retries_end_with_the_first_token() -> None:
    busy = [ServerBusy("full"), ConnectError("refused")]
    transport = FunctionTransport(failing(list(busy)))
    with Client(transport=transport, retries=AT_ONCE) as client:
        assert client.generate("Hi").timing.attempts == 3
    for handler in (failing([*busy, *busy]), failing(list(busy), after=1)):
        transport = FunctionTransport(handler)
        with Client(transport=transport, retries=AT_ONCE) as client, pytest.raises(LlamaError):
            client.generate("Hi")
    assert len(transport.requests) == 1
    transport = FunctionTransport(failing([ServerFailed("broken")]))
    with Client(transport=transport, retries=AT_ONCE) as client, pytest.raises(ServerFailed):
        client.generate("Hi", request_id="mine")
    assert len(transport.requests) == 1


def test_no_retry_begins_after_the_total() -> None:
    transport = FunctionTransport(failing([ServerBusy("full")] * 9))
    slow = Retries(attempts=9, pause=1e6, longest_pause=1e6)
    with Client(transport=transport, retries=slow) as client, pytest.raises(ServerBusy):
        client.generate("Hi", timeouts=Timeouts(total=5.0))
    assert issubclass(TotalTimeout, LlamaError)


def test_pauses_are_random_below_a_bound_that_doubles() -> None:
    retries = Retries(attempts=9, pause=0.1, longest_pause=0.5)
    for attempt, bound in ((2, 0.1), (3, 0.2), (4, 0.4), (5, 0.5), (9, 0.5)):
        drawn = [retries.seconds_before(attempt) for _ in range(200)]
        assert 0 <= min(drawn) < bound / 2 < max(drawn) <= bound


def test_a_stream_without_a_final_chunk_is_an_error() -> None:
    transport = FunctionTransport(lambda request: iter([chunk(0), chunk(1)]))
    with Client(transport=transport) as client:
        stream = client.stream("Hi", request_id="mine")
        assert [next(stream).index, next(stream).index] == [0, 1]
        with pytest.raises(IncompleteStream) as caught:
            next(stream)
    assert caught.value.request_id == "mine"


def leave_by_break(stream: Any) -> None:
    for _ in stream:
        break


def leave_by_error(stream: Any) -> None:
    with pytest.raises(ZeroDivisionError), stream:
        1 // (next(stream).index * 0)


def leave_by_close(stream: Any) -> None:
    next(stream)
    stream.close()


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_error, leave_by_close])
def test_leaving_stops_the_request_and_reading_to_the_end_does_not(
    leave: Callable[[Any], None],
) -> None:
    transport = FunctionTransport(three)
    with Client(transport=transport) as client:
        leave(client.stream("Hi", request_id="mine"))
        assert transport.stopped == ["mine"]
        for _ in client.stream("Hi"):
            pass
    assert transport.stopped == ["mine"]


def test_async_leaving_stops_the_request() -> None:
    async def slow(request: Request) -> AsyncIterator[Chunk]:
        yield chunk(0)
        await asyncio.Event().wait()

    async def main() -> None:
        transport = AsyncFunctionTransport(slow)
        async with AsyncClient(transport=transport) as client:
            async for _ in client.stream("Hi", request_id="break"):
                break
            stream = client.stream("Hi", request_id="close")
            await stream.__anext__()
            await stream.close()

            async def read() -> None:
                async for _ in client.stream("Hi", request_id="cancel"):
                    begun.set()

            begun = asyncio.Event()
            task = asyncio.create_task(read())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            stream = client.stream("Hi", request_id="next")
            await stream.__anext__()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(stream.__anext__(), 0.01)
        assert sorted(transport.stopped) == ["break", "cancel", "close", "next"]
        assert transport.closed
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_the_metadata_is_fetched_again_for_an_unknown_option() -> None:
    asked = []

    class Counting(FunctionTransport):
        def metadata(self, model: str, timeout_s: float | None) -> ModelMetadata:
            asked.append(model)
            return METADATA

    with Client(transport=Counting(three)) as client:
        client.generate("Hi")
        client.generate("Hi")
        assert asked == ["ensemble"]
        with pytest.raises(UnknownOption, match="presence_penalty is not an input"):
            client.generate("Hi", presence_penalty=1)
        assert len(asked) == 2
