"""The client against the real ensemble: concurrency, cancelling, gevent, questions."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from llama_fp4 import (
    AsyncClient,
    Client,
    InvalidRequest,
    LlamaError,
    Retries,
    ServerInfo,
    Timeouts,
    UnsupportedRequest,
)
from serving.child_server import ServerProcess

from tests.support.golden import PROMPTS, without_end
from tests.support.paths import ROOT
from tests.support.processes import PATIENCE_S, eventually, url

WIRES = ("grpc", "http")
LONG = 1500
MANY = 200
TRITON = ServerInfo("triton", "2.51.0")  # nvidia-pytriton 0.7.0's


def leave(client: Client, how: str) -> None:
    stream = client.stream("Hello", max_tokens=LONG)
    if how == "break":
        for _ in stream:
            break
    elif how == "with":
        with stream:
            next(stream)
    elif how == "unread":
        stream.close()
    else:
        next(stream)
        stream.close()


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("how", ["break", "with", "close", "unread"])
def test_leaving_frees_the_engine(narrow_server: ServerProcess, wire: str, how: str) -> None:
    """The engine runs one sequence: the second is answered only if the first was cancelled."""
    with Client(url(narrow_server, wire)) as client:
        leave(client, how)
        assert client.generate("Hi", max_tokens=2, timeouts=Timeouts(total=PATIENCE_S)).text


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("how", ["break", "cancel", "with", "generate"])
def test_async_leaving_frees_the_engine(narrow_server: ServerProcess, wire: str, how: str) -> None:
    async def read(client: AsyncClient, begun: asyncio.Event) -> None:
        async for _ in client.stream("Hello", max_tokens=LONG):
            begun.set()
            if how == "break":
                break

    async def main() -> None:
        async with AsyncClient(url(narrow_server, wire)) as client:
            begun = asyncio.Event()
            if how == "with":
                async with client.stream("Hello", max_tokens=LONG) as stream:
                    await stream.__anext__()
            elif how == "generate":
                limit = asyncio.wait_for(client.generate("Hello", max_tokens=LONG), 0.5)
                with pytest.raises(asyncio.TimeoutError):
                    await limit
            else:
                task = asyncio.create_task(read(client, begun))
                await begun.wait()
                if how == "cancel":
                    task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            limit_s = Timeouts(total=PATIENCE_S)
            assert (await client.generate("Hi", max_tokens=2, timeouts=limit_s)).text
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [True, False])
def test_chunks_carry_the_references_token_ids(
    demo_server: ServerProcess, wire: str, stream: bool
) -> None:
    with Client(url(demo_server, wire)) as client:
        for one in PROMPTS[:10]:
            question = one["messages"] if one["messages"] is not None else one["prompt"]
            limit = one["max_new_tokens"]
            # An echoed prompt is text of the answer, and none of its tokens.
            chunks = list(
                client.stream(
                    question, max_tokens=limit, stream=stream, exclude_input_in_output=False
                )
            )
            assert [len(chunk.token_ids) for chunk in chunks] == [
                chunk.num_output_tokens for chunk in chunks
            ]
            ids = [token for chunk in chunks for token in chunk.token_ids]
            assert ids == without_end(one["tokens"])
    with Client(url(demo_server, wire), token_ids=False) as client:
        assert client.generate("Hello", max_tokens=3).token_ids == ()


@pytest.mark.parametrize("wire", WIRES)
def test_200_streams_at_once(replay_server: ServerProcess, wire: str) -> None:
    threads = threading.active_count()
    # The server takes 80 at a time, and refuses the others for now.
    with Client(url(replay_server, wire), retries=Retries(100)) as client:
        expected = client.generate("Hello there", max_tokens=50)

        def ask(_: int) -> tuple[str, tuple[int, ...]]:
            with client.stream("Hello there", max_tokens=50) as stream:
                chunks = list(stream)
            assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
            return "".join(c.text for c in chunks), stream.completion.token_ids

        with ThreadPoolExecutor(MANY) as pool:
            assert set(pool.map(ask, range(MANY))) == {(expected.text, expected.token_ids)}
    eventually(lambda: threading.active_count() <= threads, "the client's threads have ended")


@pytest.mark.parametrize("wire", WIRES)
def test_200_async_streams_at_once(replay_server: ServerProcess, wire: str) -> None:
    async def main() -> set[str]:
        async with AsyncClient(url(replay_server, wire), retries=Retries(100)) as client:
            asked = (client.stream("Hello there", max_tokens=50) for _ in range(MANY))

            async def whole(stream: Any) -> str:
                return "".join([chunk.text async for chunk in stream])

            texts = set(await asyncio.gather(*map(whole, asked)))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return texts

    with Client(replay_server.ports.url("grpc")) as client:
        expected = client.generate("Hello there", max_tokens=50).text
    assert asyncio.run(main()) == {expected}


def test_sockets_are_closed(replay_server: ServerProcess) -> None:
    def sockets() -> int:
        links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
        return sum(str(os.readlink(p)).startswith("socket") for p in links if p.is_symlink())

    before = sockets()
    for wire in WIRES:
        with Client(url(replay_server, wire)) as client:
            leave(client, "break")
            assert client.is_ready()
    eventually(lambda: sockets() <= before, "every connection is closed")


@pytest.mark.parametrize("wire", WIRES)
def test_refusals_have_a_class_and_an_id(replay_server: ServerProcess, wire: str) -> None:
    with Client(url(replay_server, wire)) as client:
        with pytest.raises(InvalidRequest, match="the prompt of") as caught:
            client.generate("a", max_tokens=9999, request_id="mine")
        assert (caught.value.code, caught.value.request_id) == ("INVALID_ARGUMENT", "mine")
        assert not caught.value.retryable
        with pytest.raises(UnsupportedRequest, match="bad_words"):
            client.generate("a", bad_words=["b"])


def test_a_request_stopped_by_its_id(narrow_server: ServerProcess) -> None:
    with Client(narrow_server.ports.url("grpc")) as client:
        stream = client.stream("Hello", max_tokens=LONG, request_id="mine")
        next(stream)
        client._transport.stop("mine", PATIENCE_S)
        assert list(stream)[-1].finish_reason == "cancelled"


GEVENT = """
from gevent import monkey; monkey.patch_all()
import grpc.experimental.gevent; grpc.experimental.gevent.init_gevent()
import sys, threading, gevent
from llama_fp4 import Client, FirstTokenTimeout, Timeouts
with Client(sys.argv[1]) as client:
    expected = client.generate("Hello there", max_tokens=40).text
    def ask():
        limits = Timeouts(between_tokens=30.0)
        return "".join(c.text for c in client.stream("Hello there", max_tokens=40, timeouts=limits))
    jobs = [gevent.spawn(ask) for _ in range(50)]
    gevent.joinall(jobs, raise_error=True)
    assert {job.value for job in jobs} == {expected}
with Client(sys.argv[2]) as client:
    busy = client.stream("Hello", max_tokens=1500)
    next(busy)
    beats = []
    beat = gevent.spawn(lambda: [beats.append(gevent.sleep(0.01)) for _ in range(1000)])
    try:
        list(client.stream("Hello", max_tokens=5, timeouts=Timeouts(first_token=0.5)))
        raise SystemExit("no timeout")
    except FirstTokenTimeout:
        pass
    assert len(beats) > 10, "other greenlets stood still"
    beat.kill()
    busy.close()
    assert client.generate("Hi", max_tokens=2, timeouts=Timeouts(total=30.0)).text
print("fine")
"""


def test_under_gevent(replay_server: ServerProcess, narrow_server: ServerProcess) -> None:
    pytest.importorskip("gevent")
    urls = [replay_server.ports.url("grpc"), narrow_server.ports.url("grpc")]
    result = subprocess.run(
        [sys.executable, "-c", GEVENT, *urls],
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.stdout == "fine\n", result.stderr


def test_importing_loads_neither_grpc_nor_numpy() -> None:
    code = "import sys, llama_fp4; print({'grpc', 'numpy', 'tritonclient'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "client")}
    output = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert output == "set()\n"


def test_questions_to_the_server(replay_server: ServerProcess) -> None:
    async def asked(wire: str) -> ServerInfo:
        async with AsyncClient(url(replay_server, wire)) as client:
            return await client.server()

    for wire in WIRES:
        assert asyncio.run(asked(wire)) == TRITON
        with Client(url(replay_server, wire)) as client:
            assert client.health().model_ready
            assert client.server() == TRITON
            assert "ensemble" in {model.name for model in client.models()}
            assert "text_output" in {tensor.name for tensor in client.metadata().outputs}
            (stats,) = client.statistics()["model_stats"]
            assert stats["name"] == "ensemble"
        with Client(url(replay_server, wire), "nothing") as client:
            with pytest.raises(LlamaError):
                client.metadata()
            assert not client.is_ready()
