"""serve.py is stopped: an engine that needs its time, clients that stay, an engine that hangs.

The usual stop, and what a killed server leaves behind, are in test_serve.py.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import shutil
import signal
from pathlib import Path

import engine_supervisor
import pytest
import tritonclient.grpc as triton
from assemble_repository import assemble
from engine_config import load_engine_config
from engines.engine_json import write_description
from generation_room import GenerationRoom
from serve_signals import ANSWER, DIRECTORY_VARIABLE, ENDED, KILLED, REQUEST, SIGNS
from serving import start_stop
from serving.child_server import ServerProcess, free_ports
from serving.cleanup import SERVER_GRACE_S
from serving.processes import Stub
from serving.start_stop import CLIENTS_S, LONGEST_S, ROOMS_S, UNLOAD_S, StopWatch

from tests.support.fake_clock import Clock
from tests.support.paths import FAKES
from tests.support.process_suite import interpreter
from tests.support.processes import PATIENCE_S, Remains, eventually, is_alive

SHUTDOWN_S = 6.0  # a GPU's runtime takes this time
OF_CLIENTS = "1 HTTP service connections"
OF_MODELS = "1 live models and 0 in-flight non-inference requests"


def stop(server: ServerProcess) -> str:
    """Ask the server to end; its log, once it has ended well and nothing of it is left."""
    remains = Remains(server)
    os.kill(server.pid, signal.SIGTERM)
    assert server.wait() == 0
    assert not remains.found()
    log = server.log()
    for complaint in ("Exit timeout expired", "Non-graceful termination", "warning: the engine"):
        assert complaint not in log
    return log


def test_an_engine_may_take_its_time_to_end(
    replay_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, repository = tmp_path / "engine", tmp_path / "model_repository"
    shutil.copytree(replay_repository / "tensorrt_llm" / "1" / "engine", engine)
    python = interpreter(tmp_path, FAKES / "libraries" / "site")
    config = dataclasses.replace(
        load_engine_config(engine), runtime="vllm", runtime_options={}, engine_python=str(python)
    )
    write_description(engine, config)
    assemble(engine, repository)
    settings = {"version": "0_32", "shutdown_seconds": SHUTDOWN_S}
    noted = tmp_path / "shut-down"
    monkeypatch.setenv("VLLM_FAKE", json.dumps({**settings, "notes_shutdown": str(noted)}))
    server = ServerProcess(repository, free_ports(), tmp_path / "server.log")
    server.start()
    log = stop(server)
    assert noted.read_text() == "shutdown\n"
    assert "did not shut down" not in log
    assert "tritonserver was ended" not in log


def test_an_idle_http_connection_does_not_fail_a_stop(server: ServerProcess) -> None:
    """Triton would wait for it until its own limit, and then kill the models."""
    host, port = server.ports.url("http").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
    eventually(lambda: connects(connection), "Triton opens its HTTP port after its gRPC port")
    connection.request("GET", "/v2/health/ready")
    connection.getresponse().read()
    log = stop(server)
    connection.close()
    sentence = f"tritonserver was ended: it waited 3 s for nothing but idle clients ({OF_CLIENTS})"
    assert log.splitlines()[-1] == sentence


def connects(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.connect()
    except ConnectionRefusedError:
        return False
    return True


def test_an_idle_grpc_stream_does_not_hold_up_a_stop(server: ServerProcess) -> None:
    """Triton 2.51 would wait for it forever."""
    client = triton.InferenceServerClient(server.ports.url("grpc"))
    client.start_stream(lambda result, error: None)
    assert client.is_server_live()  # so the stream, which was asked for before, is open
    log = stop(server)
    client.close()
    assert log.splitlines()[-1].startswith("tritonserver was ended: it waited 5 s (0 live mod")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.of(start_stop, monkeypatch)


ROOMS = {Stub(number, f"region-{number}", room) for number, room in enumerate(SIGNS)}
STRANGER = Stub(99, "region-99", "reranker")


def test_the_limits_leave_the_engine_its_time() -> None:
    assert engine_supervisor.LONGEST_STOP_S < UNLOAD_S < LONGEST_S
    assert UNLOAD_S < SERVER_GRACE_S


def test_clients_get_their_time_while_the_engine_ends(tmp_path: Path, clock: Clock) -> None:
    watch = StopWatch(tmp_path)
    assert watch.check(ROOMS | {STRANGER}, OF_CLIENTS) == ""
    clock.now = CLIENTS_S + 1
    assert watch.check(ROOMS | {STRANGER}, OF_CLIENTS) == ""
    assert not watch.waits_for_clients
    (tmp_path / ENDED).touch()
    assert "nothing but idle clients" in watch.check(ROOMS | {STRANGER}, OF_CLIENTS)
    assert watch.waits_for_clients


def test_a_client_that_leaves_gives_the_others_their_time(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / KILLED).touch()
    watch = StopWatch(tmp_path)
    assert watch.check(ROOMS, "2 HTTP service connections") == ""
    clock.now = CLIENTS_S - 1
    assert watch.check(ROOMS, OF_CLIENTS) == ""
    clock.now += CLIENTS_S - 1
    assert watch.check(ROOMS, OF_CLIENTS) == ""
    clock.now += 2
    assert "nothing but idle clients" in watch.check(ROOMS, OF_CLIENTS)


def test_the_rooms_get_their_time_after_the_engines_end(tmp_path: Path, clock: Clock) -> None:
    watch = StopWatch(tmp_path)
    assert watch.check(ROOMS, OF_MODELS) == ""
    clock.now = ROOMS_S + 1
    assert watch.check(ROOMS, OF_MODELS) == ""
    (tmp_path / ENDED).touch()
    assert watch.check(ROOMS, OF_MODELS) == ""
    clock.now += ROOMS_S - 1
    left = {stub for stub in ROOMS if stub.model == "tensorrt_llm"}
    assert watch.check(left, OF_MODELS) == ""
    clock.now += ROOMS_S - 1
    assert watch.check(left, OF_MODELS) == ""
    clock.now += 2
    assert f"it waited {ROOMS_S:g} s ({OF_MODELS})" in watch.check(left, OF_MODELS)
    assert watch.models == ["tensorrt_llm"]


def test_somebody_elses_model_may_take_its_time_to_end(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / ENDED).touch()
    watch = StopWatch(tmp_path)
    assert watch.check({STRANGER}, OF_MODELS) == ""
    clock.now = LONGEST_S - 1
    assert watch.check({STRANGER}, OF_MODELS) == ""
    clock.now += 2
    assert watch.check({STRANGER}, OF_MODELS) == "it did not end within 30 s"
    assert not watch.waits_for_clients


def test_a_server_without_models_gets_its_time(tmp_path: Path, clock: Clock) -> None:
    watch = StopWatch(tmp_path)
    assert watch.check(set(), "") == ""
    clock.now = ROOMS_S - 1
    assert watch.check(set(), "") == ""
    clock.now += 2
    assert "as it does for idle gRPC streams" in watch.check(set(), "")


@pytest.mark.parametrize("hangs", [False, True])
def test_a_drained_room_ends_its_engine(
    replay_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """By itself: Triton may never unload it."""
    monkeypatch.setattr(engine_supervisor, "SHUTDOWN_GRACE_S", 0.5)
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))
    log: list[str] = []
    room = GenerationRoom(replay_repository / "tensorrt_llm" / "1" / "engine", log.append)
    room.open()
    child = room._supervisor._child
    assert child is not None
    if hangs:
        os.kill(child.process.pid, signal.SIGSTOP)
    (tmp_path / REQUEST).write_text("30")
    sign = tmp_path / (KILLED if hangs else ENDED)
    eventually(sign.exists, "the room says how the engine ended")
    assert (tmp_path / ANSWER).exists()
    assert not is_alive(child.process.pid)
    killed = "the engine process did not end within 0.5 s and was killed"
    assert (killed in log) == hangs
    room.close()
