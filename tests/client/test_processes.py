"""Clients that meet restarts, forks, cut connections, many requests and huge ones."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from llama_fp4 import (
    AsyncClient,
    Client,
    ClientClosed,
    ConnectError,
    ConnectionLost,
    FunctionTransport,
    InvalidRequest,
    Keepalive,
    Retries,
    Timeouts,
)
from llama_fp4.transports.base import METADATA
from tritonclient.grpc import service_pb2 as pb

from tests.benchmarks.playback_server import SERVICE
from tests.support.client_chunks import three
from tests.support.paths import ROOT
from tests.support.processes import PATIENCE_S, eventually


class Player(grpc.GenericRpcHandler):
    """A small KServe server that sends one word, then ends or hangs."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def service(self, details: Any) -> Any:
        if details.method == SERVICE + "ModelMetadata":
            return grpc.unary_unary_rpc_method_handler(self._describe)
        if details.method != SERVICE + "ModelStreamInfer":
            return None  # unimplemented
        return grpc.unary_stream_rpc_method_handler(self._play)

    def _describe(self, request: bytes, context: Any) -> bytes:
        answer = pb.ModelMetadataResponse(name="ensemble")
        for tensor in METADATA.inputs:
            answer.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        answer.outputs.add(name="text_output", datatype="BYTES", shape=[-1])
        described: bytes = answer.SerializeToString()
        return described

    def _play(self, request: bytes, context: Any) -> Iterator[bytes]:
        context.add_callback(self.cancelled.set)
        answer = pb.ModelStreamInferResponse()
        answer.infer_response.outputs.add(name="text_output", datatype="BYTES", shape=[1])
        answer.infer_response.raw_output_contents.append(b"\x02\x00\x00\x00Hi")
        if b"hang" in request:
            yield answer.SerializeToString()
            self.cancelled.wait(PATIENCE_S)
            return
        answer.infer_response.parameters["triton_final_response"].bool_param = True
        yield answer.SerializeToString()


def serve(port: int = 0, host: str = "127.0.0.1") -> tuple[grpc.Server, Player, int]:
    player = Player()
    server = grpc.server(ThreadPoolExecutor(8), handlers=[player])
    port = server.add_insecure_port(f"{host}:{port}")
    server.start()
    return server, player, port


@pytest.fixture
def playing() -> Iterator[tuple[Player, str]]:
    server, player, port = serve()
    yield player, f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_client_reconnects_to_a_restarted_server() -> None:
    server, _, port = serve()
    with Client(f"127.0.0.1:{port}", retries=Retries(attempts=1)) as client:
        assert client.generate("Hi").text == "Hi"
        server.stop(None).wait()
        for _ in range(3):
            with pytest.raises(ConnectError):
                client.generate("Hi")
        server, _, _ = serve(port)

        def answered() -> bool:
            try:
                return client.generate("Hi").text == "Hi"
            except ConnectError:
                return False

        eventually(answered, "the client has connected again")
        server.stop(None).wait()


def test_ipv6() -> None:
    server, _, port = serve(host="[::1]")
    with Client(f"[::1]:{port}") as client:
        assert client.generate("Hi").text == "Hi"
    server.stop(None).wait()


class Wire:
    """Forwards a connection's bytes until it is cut; neither end notices that."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._target = ("127.0.0.1", port)
        self._cut = threading.Event()
        self._sockets: list[socket.socket] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._cut.set()

    def close(self) -> None:
        for one in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self._cut.is_set():
                    sink.sendall(data)


def test_keepalive_detects_a_cut_connection() -> None:
    server, player, port = serve()
    wire = Wire(port)
    keepalive = Keepalive(every_s=1.0, timeout_s=0.2)
    with Client(wire.address, keepalive=keepalive) as client:
        stream = client.stream("hang", timeouts=Timeouts(total=PATIENCE_S))
        next(stream)
        wire.cut()
        with pytest.raises(ConnectionLost) as caught:
            next(stream)
        assert caught.value.request_id == stream.request_id
    wire.close()
    player.cancelled.set()
    server.stop(None).wait()


def test_a_dropped_stream_is_cancelled_on_the_server(playing: tuple[Player, str]) -> None:
    player, where = playing
    with Client(where) as client:
        stream = client.stream("hang")
        next(stream)
        del stream
        gc.collect()
        assert player.cancelled.wait(PATIENCE_S)


def test_closing_an_async_client_ends_its_streams_with_an_error(
    playing: tuple[Player, str],
) -> None:
    async def main() -> None:
        client = AsyncClient(playing[1])
        stream = client.stream("hang")
        await stream.__anext__()
        reading = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ClientClosed):
            await reading
        left = asyncio.all_tasks() - {asyncio.current_task()}
        # grpc.aio reads the status of a cancelled call in a task of its own, which may end later.
        assert all("_AioCall." in repr(task.get_coro()) for task in left)
        await asyncio.wait_for(asyncio.gather(*left), PATIENCE_S)

    asyncio.run(main())


def test_a_cancelled_task_raises_cancelled_error(playing: tuple[Player, str]) -> None:
    async def main() -> None:
        async with AsyncClient(playing[1]) as client, client.stream("hang") as stream:
            await stream.__anext__()
            reading = asyncio.ensure_future(stream.__anext__())
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading

    asyncio.run(main())


def test_prompts_that_are_too_long_for_a_message(playing: tuple[Player, str]) -> None:
    with Client(playing[1]) as client:
        with pytest.raises(InvalidRequest, match="larger than max"):
            client.generate("x" * (65 * 2**20))
        with pytest.raises(InvalidRequest, match="text_input must be what BYTES can hold"):
            client.generate("half a pair: \ud800")
        assert client.generate("x" * 2**20).text == "Hi"


def test_10000_requests_leave_nothing_behind() -> None:
    with Client(transport=FunctionTransport(three)) as client:
        transport: Any = client._transport

        def ask(times: int) -> int:
            for _ in range(times):
                client.generate("Hi")
            transport.requests.clear()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        before = ask(1000)
        after = ask(10_000)
        tracemalloc.stop()
    assert after - before < 200_000  # 20 bytes a request


FORK = """
import os, sys
from llama_fp4 import Client, InvalidRequest, Timeouts
client = Client(sys.argv[1])
assert client.generate("Hi").text == "Hi"
child = os.fork()
if child == 0:
    try:
        client.generate("Hi", timeouts=Timeouts(total=5.0))
    except InvalidRequest as error:
        os._exit(0 if "another process" in str(error) else 1)
    os._exit(2)
_, status = os.waitpid(child, 0)
assert client.generate("Hi").text == "Hi"
print(os.waitstatus_to_exitcode(status), flush=True)
os._exit(0)
"""


PATCHED_LATE = """
import sys
from llama_fp4 import Client, InvalidRequest
client = Client(sys.argv[1])
assert client.generate("Hi").text == "Hi"
from gevent import monkey; monkey.patch_all()
try:
    client.generate("Hi")
except InvalidRequest as error:
    print(int("before gevent's" not in str(error)))
"""


@pytest.mark.parametrize("script", [FORK, PATCHED_LATE], ids=["fork", "gevent"])
def test_a_client_that_cannot_work_raises(playing: tuple[Player, str], script: str) -> None:
    """After a fork two processes would share a connection; gevent patched too late would hang."""
    if script == PATCHED_LATE:
        pytest.importorskip("gevent")
    result = subprocess.run(
        [sys.executable, "-c", script, playing[1]],
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.stdout == "0\n", result.stderr
