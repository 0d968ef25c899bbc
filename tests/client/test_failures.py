"""Servers that die, stay silent, answer wrongly or do not exist, and clients that were closed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc
import pytest
from llama_fp4 import (
    Cancelled,
    Client,
    ClientClosed,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    IncompleteStream,
    LlamaError,
    RequestTimeout,
    Retries,
    ServerBusy,
    ServerFailed,
    Timeouts,
    Unauthenticated,
)
from llama_fp4.request_state import LATE_STOP_TIMEOUT_S, STOP_TIMEOUT_S, RequestState
from serving.child_server import ServerProcess, free_ports
from tritonclient.grpc import service_pb2 as pb

from tests.benchmarks.playback_server import SERVICE
from tests.conftest import MakeRepository
from tests.support.processes import PATIENCE_S, triton_of, url

WIRES = ("grpc", "http")
LONG = 1500


@pytest.mark.parametrize("wire", WIRES)
def test_a_server_killed_within_a_stream(
    make_repository: MakeRepository, tmp_path: Path, wire: str
) -> None:
    repository = make_repository("--runtime", "replay", "--step-seconds", "0.03")
    server = ServerProcess(repository, free_ports(), tmp_path / "server.log")
    server.start()
    with Client(url(server, wire), retries=Retries(attempts=1)) as client:
        stream = client.stream("Hello", max_tokens=LONG)
        next(stream)
        os.kill(triton_of(server.pid), signal.SIGKILL)
        with pytest.raises(ConnectionLost) as caught:
            list(stream)
        assert caught.value.request_id == stream.request_id
        # A dying process closes one socket after the other: one that still listens takes a
        # connection and drops it, which is no refusal.
        server.wait()
        with pytest.raises(ConnectError) as refused:
            client.generate("Hello")
        assert refused.value.retryable


@pytest.mark.parametrize("wire", WIRES)
def test_a_closed_client(narrow_server: ServerProcess, wire: str) -> None:
    client = Client(url(narrow_server, wire))
    stream = client.stream("Hello", max_tokens=LONG)
    next(stream)
    client.close()
    with pytest.raises((ClientClosed, Cancelled)):
        list(stream)
    with pytest.raises(ClientClosed):
        client.generate("Hi")


def test_nobody_listens() -> None:
    port = free_ports().grpc
    for where in (f"127.0.0.1:{port}", f"http://127.0.0.1:{port}"):
        with Client(where) as client:
            assert not client.is_ready()
            with pytest.raises(ConnectError) as caught:
                client.generate("Hi")
        assert str(caught.value) == f"no connection to 127.0.0.1:{port}: Connection refused"


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_an_unknown_host(scheme: str) -> None:
    with (
        Client(f"{scheme}nobody.invalid:8001", retries=Retries(attempts=1)) as client,
        pytest.raises(ConnectError) as caught,
    ):
        client.generate("Hi")
    said = str(caught.value)
    assert said.startswith("no connection to nobody.invalid:8001: ")
    assert not set("[]{}") & set(said)


# What a gateway before the server may answer with.
ABORTS: dict[str, type[LlamaError]] = {
    "RESOURCE_EXHAUSTED": ServerBusy,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": Unauthenticated,
    "CANCELLED": Cancelled,
    "INTERNAL": ServerFailed,
}


class _Ends(grpc.GenericRpcHandler):
    """A server whose streams end too early, or that never answers."""

    def __init__(self, metadata: bytes, silent: threading.Event | None) -> None:
        self._metadata, self._silent = metadata, silent
        self.headers: list[Any] = []

    def service(self, details: Any) -> Any:
        self.headers.append(dict(details.invocation_metadata))
        if details.method == SERVICE + "ModelMetadata":
            return grpc.unary_unary_rpc_method_handler(self._describe)
        return grpc.unary_stream_rpc_method_handler(self._play)

    def _describe(self, request: bytes, context: Any) -> bytes:
        if self._silent:
            self._silent.wait(PATIENCE_S)
        return self._metadata

    def _play(self, request: bytes, context: Any) -> Iterator[bytes]:
        for code in ABORTS:
            if code.encode() in request:
                context.abort(grpc.StatusCode[code], "as it was asked for")
        yield pb.ModelStreamInferResponse().SerializeToString()


def _metadata_of(server: ServerProcess) -> bytes:
    with grpc.insecure_channel(server.ports.url("grpc")) as channel:
        asked = pb.ModelMetadataRequest(name="ensemble").SerializeToString()
        metadata: bytes = channel.unary_unary(SERVICE + "ModelMetadata")(asked)
    return metadata


@pytest.mark.parametrize("silent", [False, True])
def test_a_server_that_misbehaves(replay_server: ServerProcess, silent: bool) -> None:
    metadata = _metadata_of(replay_server)
    release = threading.Event()
    handler = _Ends(metadata, release if silent else None)
    server = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
    where = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    limits = Timeouts(connect=0.3 if silent else 10.0)
    headers = {"Authorization": "Bearer secret"}
    try:
        with Client(where, timeouts=limits, headers=headers) as client:
            with pytest.raises(ConnectTimeout if silent else IncompleteStream):
                list(client.stream("Hello"))
            if not silent:
                for code, kind in ABORTS.items():
                    with pytest.raises(kind, match="as it was asked for") as caught:
                        client.generate(code)
                    assert (type(caught.value), caught.value.code) == (kind, code)
        assert {one["authorization"] for one in handler.headers} == {"Bearer secret"}
    finally:
        release.set()
        server.stop(None)


class _Hangs(_Ends):
    """A server that never answers a generation; it notes how long the client waits for a stop."""

    def __init__(self, metadata: bytes, release: threading.Event) -> None:
        super().__init__(metadata, None)
        self._release = release
        self.stop_limits: list[float] = []

    def _play(self, request: bytes, context: Any) -> Iterator[bytes]:
        inputs = pb.ModelInferRequest.FromString(request).inputs
        if any(each.name == "stop" for each in inputs):
            self.stop_limits.append(context.time_remaining())
        self._release.wait(PATIENCE_S)
        yield from super()._play(request, context)


LATE = [Timeouts(total=0.3), Timeouts(first_token=0.3)]


@pytest.mark.parametrize("limits", LATE, ids=["total", "first_token"])
def test_a_timeout_is_not_followed_by_a_long_wait(
    replay_server: ServerProcess, limits: Timeouts
) -> None:
    """The request is stopped too, but a server that hangs does not answer that either."""
    metadata = _metadata_of(replay_server)
    release = threading.Event()
    handler = _Hangs(metadata, release)
    server = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
    where = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        with Client(where, timeouts=limits) as client, pytest.raises(RequestTimeout):
            client.generate("Hello")
        assert len(handler.stop_limits) == 1
        assert handler.stop_limits[0] < 2 * LATE_STOP_TIMEOUT_S
    finally:
        release.set()
        server.stop(None)


@pytest.mark.parametrize(
    ("total", "least", "most"),
    [(None, STOP_TIMEOUT_S, STOP_TIMEOUT_S), (2.0, 1.5, 2.0), (0.01, 0.5, 0.5)],
)
def test_a_close_waits_no_longer_than_the_request_may_take(
    total: float | None, least: float, most: float
) -> None:
    state = RequestState("1", Timeouts(total=total), Retries(), perf_counter())
    assert least <= state.stop_limit_s() <= most
