"""What a streamed response costs the client's process: our client beside what it is built on.

Every client reads the same answers, from a process of its own; what is counted is that process's
CPU time. The answers are the ensemble's on the replay engine, recorded, and played back by a server
that costs less than any client (`playback_server`). Rounds alternate between the clients, and the
least of each is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from host.console import run_script, say
from llama_fp4.model_contract import OUTPUTS, Request, Tensor
from serving.child_server import ServerProcess, free_ports

from tests.benchmarks.playback_server import record, record_http
from tests.support.deployments import make_deployment

STREAMS = 16
TOKENS = 1500
# name -> (what it is measured against, microseconds that it may cost)
LIMITS = {"AsyncClient": ("raw aio stub", 60.0), "Client": ("raw stub", 110.0)}


def main() -> None:
    """No figure makes it fail."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", help="measure one client against this server (used by itself)")
    parser.add_argument("--only", choices=CLIENTS)
    options = parser.parse_args()
    if options.url:
        print(json.dumps(_measure(CLIENTS[options.only], options.url)))
        return
    with tempfile.TemporaryDirectory() as folder:
        repository = make_deployment(Path(folder), "--runtime", "replay")
        answers = [Path(folder) / protocol for protocol in ("grpc", "http")]
        with ServerProcess(repository, free_ports(), Path(folder) / "server.log") as server:
            record(server.ports.url("grpc"), answers[0], _raw_request())
            record_http(server.ports.url("http"), answers[1], _http_request())
        with _playing(answers) as urls:
            _report(urls, options.rounds)


@contextlib.contextmanager
def _playing(answers: list[Path]) -> Iterator[dict[str, str]]:
    """The URLs of both protocols."""
    command = [sys.executable, "-m", "tests.benchmarks.playback_server", *map(str, answers)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        grpc, http = process.stdout.readline().split()
        yield {"grpc": f"127.0.0.1:{grpc}", "http": f"http://127.0.0.1:{http}"}
        process.communicate()  # ends its standard input


def _report(urls: dict[str, str], rounds: int) -> None:
    costs: dict[str, list[float]] = {name: [] for name in CLIENTS}
    for number in range(rounds):
        for name, found in costs.items():
            command = [sys.executable, "-m", "tests.benchmarks.client", "--only", name]
            command += ["--url", urls["http" if "HTTP" in name else "grpc"]]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found.append(json.loads(output))
        say(f"round {number + 1} of {rounds}")
    for name, found in costs.items():
        line = f"{name:<24}{min(found):6.1f} us of CPU per streamed response"
        if name in LIMITS:
            beside, limit = LIMITS[name]
            ratio = min(found) / min(costs[beside])
            line += f"; {ratio:.2f} of the {beside}; at most {limit:.0f} us is the goal"
        say(line)


def _measure(client: Callable[[str], Callable[[], int]], url: str) -> float:
    """Microseconds of this process's CPU time for a response."""
    run = client(url)
    run()  # imports, connects, warms up
    before = time.process_time()
    responses = run()
    return (time.process_time() - before) / responses * 1e6


def _raw_request() -> Any:
    from llama_fp4.transports import grpc_messages as grpc_wire

    return grpc_wire.infer_request(_request())


def _http_request() -> bytes:
    from llama_fp4.transports import http_messages

    return http_messages.generate(_request())


def _request() -> Request:
    tensors = (
        Tensor("text_input", "BYTES", (1, 1), ["Hello there"]),
        Tensor("max_tokens", "INT32", (1, 1), [TOKENS]),
        Tensor("stream", "BOOL", (1, 1), [True]),
        Tensor("return_token_ids", "BOOL", (1, 1), [True]),
    )
    return Request("ensemble", "", tensors, {}, (*OUTPUTS, "token_ids"))


def _at_once(ask: Callable[[], int]) -> int:
    with ThreadPoolExecutor(STREAMS) as pool:
        return sum(pool.map(lambda _: ask(), range(STREAMS)))


def raw_stub(url: str) -> Callable[[], int]:
    """The KServe stub itself, a thread a stream."""
    import grpc
    from tritonclient.grpc import service_pb2_grpc

    stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(url))
    request = _raw_request()
    return lambda: _at_once(lambda: sum(1 for _ in stub.ModelStreamInfer(iter([request]))))


def client(url: str) -> Callable[[], int]:
    """Ours, a thread a stream."""
    from llama_fp4 import Client

    ours = Client(url)
    return lambda: _at_once(lambda: sum(1 for _ in ours.stream("Hello there", max_tokens=TOKENS)))


def client_under_gevent(url: str) -> Callable[[], int]:
    """Ours, a greenlet a stream: gRPC's completion queue is read in gevent's threads."""
    import gevent
    from gevent import monkey

    monkey.patch_all()
    from grpc.experimental.gevent import init_gevent

    init_gevent()
    from llama_fp4 import Client

    ours = Client(url)

    def ask() -> int:
        return sum(1 for _ in ours.stream("Hello there", max_tokens=TOKENS))

    def run() -> int:
        asked = [gevent.spawn(ask) for _ in range(STREAMS)]
        gevent.joinall(asked, raise_error=True)
        return sum(one.value for one in asked)

    return run


def raw_aio_stub(url: str) -> Callable[[], int]:
    """The KServe stub itself, a task a stream."""
    import grpc
    from tritonclient.grpc import service_pb2_grpc

    loop = asyncio.new_event_loop()
    request = _raw_request()

    async def connect() -> Any:
        return service_pb2_grpc.GRPCInferenceServiceStub(grpc.aio.insecure_channel(url))

    stub = loop.run_until_complete(connect())

    async def ask() -> int:
        responses = 0
        async for _ in stub.ModelStreamInfer(iter([request])):
            responses += 1
        return responses

    return lambda: loop.run_until_complete(_tasks(ask))


def triton_aio(url: str) -> Callable[[], int]:
    """tritonclient's own, a task a stream."""
    import numpy as np
    import tritonclient.grpc.aio as triton

    loop = asyncio.new_event_loop()
    arrays = {
        "text_input": np.array([["Hello there"]], object),
        "max_tokens": np.array([[TOKENS]], np.int32),
        "stream": np.array([[True]]),
    }
    kinds = {"text_input": "BYTES", "max_tokens": "INT32", "stream": "BOOL"}
    inputs = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, [1, 1], kinds[name])
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)

    async def connect() -> Any:
        return triton.InferenceServerClient(url)

    connection = loop.run_until_complete(connect())

    async def ask() -> int:
        async def requests() -> Any:
            yield {"model_name": "ensemble", "inputs": inputs}

        responses = 0
        async for _ in connection.stream_infer(requests()):
            responses += 1
        return responses

    return lambda: loop.run_until_complete(_tasks(ask))


def async_client(url: str) -> Callable[[], int]:
    """Ours, a task a stream."""
    from llama_fp4 import AsyncClient

    loop = asyncio.new_event_loop()
    ours = AsyncClient(url)

    async def ask() -> int:
        responses = 0
        async for _ in ours.stream("Hello there", max_tokens=TOKENS):
            responses += 1
        return responses

    return lambda: loop.run_until_complete(_tasks(ask))


async def _tasks(ask: Callable[[], Any]) -> int:
    return sum(await asyncio.gather(*(ask() for _ in range(STREAMS))))


CLIENTS: dict[str, Callable[[str], Callable[[], int]]] = {
    "raw aio stub": raw_aio_stub,
    "tritonclient.grpc.aio": triton_aio,
    "AsyncClient": async_client,
    "raw stub": raw_stub,
    "Client": client,
    "AsyncClient over HTTP": async_client,
    "Client over HTTP": client,
}
if importlib.util.find_spec("gevent"):  # of the load test's extra
    CLIENTS["Client under gevent"] = client_under_gevent

if __name__ == "__main__":
    run_script(main)
