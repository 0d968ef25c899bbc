"""A start of tritonserver that hangs or is aborted is given up and tried again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import serve
from host.console import BuildError
from llama_fp4 import Client
from serve_signals import OPEN, SIGNS
from serving import child_server, start_stop
from serving.child_server import ServerProcess, free_ports
from serving.processes import Stub, stubs_of
from serving.start_stop import StartWatch

from tests.support.fake_clock import Clock
from tests.support.processes import eventually, is_alive, regions, server_of

LIMIT_S = "5"
HANGS = '''

import time  # noqa: E402

load = TritonPythonModel.initialize


def initialize(self, args):
    """Hang once for each such file beside this one, until there is one called go."""
    folder = Path(__file__).parent
    for marker in folder.glob("hang-*"):
        marker.unlink()
        while not (folder / "go").exists():
            time.sleep(0.01)
    load(self, args)


TritonPythonModel.initialize = initialize
'''


@pytest.fixture
def repository(replay_repository: Path, tmp_path: Path) -> Path:
    """A copy whose preprocessing hangs once for each file hang-*."""
    copy = tmp_path / "model_repository"
    shutil.copytree(replay_repository, copy)
    model = copy / "preprocessing" / "1" / "model.py"
    model.write_text(model.read_text() + HANGS)
    return copy


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    more = ("--start-timeout", LIMIT_S)
    server = ServerProcess(repository, free_ports(), tmp_path / "server.log", more)
    yield server
    server.stop()


def hang(repository: Path, times: int) -> None:
    for number in range(times):
        (repository / "preprocessing" / "1" / f"hang-{number}").touch()


class FirstStart:
    """The first tritonserver of a start that hangs, and what it could leave behind."""

    def __init__(self, server: ServerProcess, model: str) -> None:
        self.triton = 0
        self.stub: Stub | None = None
        eventually(lambda: self._appears(server, model), f"{model} is started")
        assert self.stub is not None
        self.stubs: set[Stub] = stubs_of(self.triton)
        maps = Path(f"/proc/{self.triton}/maps").read_text()
        self.regions: set[str] = set(re.findall(r"/dev/shm/\S+", maps))

    def _appears(self, server: ServerProcess, model: str) -> bool:
        self.triton = server_of(server.pid) or 0
        stubs = stubs_of(self.triton) if self.triton else set()
        self.stub = next((stub for stub in stubs if stub.model == model), None)
        return self.stub is not None

    def found(self) -> bool:
        pids = [self.triton, *(stub.pid for stub in self.stubs | stubs_of(self.triton))]
        held = [region for region in self.regions if Path(region).exists()]
        return any(map(is_alive, pids)) or bool(held) or bool(regions(self.stubs))


def assert_serves(server: ServerProcess) -> None:
    with Client(server.ports.url("grpc")) as client:
        assert client.generate("Hello", max_tokens=3).text.startswith("Hel")


def test_a_model_that_hangs_once_is_started_again(server: ServerProcess, repository: Path) -> None:
    hang(repository, 1)
    server.launch()
    first = FirstStart(server, "preprocessing")
    server.wait_until_ready()
    assert_serves(server)
    assert not first.found()
    assert (
        "tritonserver did not start: its model preprocessing made no progress in 5 s; "
        "trying again, attempt 2 of 3" in server.log()
    )
    assert server.stop() == 0


def test_a_model_that_always_hangs_ends_serve(server: ServerProcess, repository: Path) -> None:
    hang(repository, 3)
    with pytest.raises(BuildError, match="did not start in 3 attempts: its model preprocessing"):
        server.start()
    assert server.wait() == 1
    assert not list((repository / "preprocessing" / "1").glob("hang-*"))


@pytest.mark.parametrize("model", ["postprocessing", "tensorrt_llm"])
def test_a_stub_that_is_stopped_is_killed_and_started_again(
    server: ServerProcess, model: str
) -> None:
    """At its very start, long before the model's own code."""
    server.launch()
    first = FirstStart(server, model)
    assert first.stub is not None
    os.kill(first.stub.pid, signal.SIGSTOP)
    server.wait_until_ready()
    assert_serves(server)
    assert not first.found()
    assert "attempt 2 of 3" in server.log()


def test_a_stub_that_triton_takes_for_dead_is_killed(
    server: ServerProcess, repository: Path
) -> None:
    """The stub was stopped for a moment and goes on, but Triton now only waits for its end."""
    hang(repository, 1)
    server.launch()
    first = FirstStart(server, "preprocessing")
    folder = repository / "preprocessing" / "1"
    eventually(lambda: not list(folder.glob("hang-*")), "the model is being initialized")
    (stub,) = [stub for stub in stubs_of(first.triton) if stub.model == "preprocessing"]
    os.kill(stub.pid, signal.SIGSTOP)
    eventually(lambda: waits_for_a_child(first.triton), "Triton takes it for dead")
    (folder / "go").touch()
    os.kill(stub.pid, signal.SIGCONT)
    server.wait_until_ready()
    assert_serves(server)
    assert not first.found()
    assert "none of its models made progress in 5 s" in server.log()


def waits_for_a_child(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task").glob("*/wchan")
    return any(thread.read_text() == "do_wait" for thread in threads)


def test_an_aborted_start_is_tried_again(server: ServerProcess, repository: Path) -> None:
    hang(repository, 1)  # it cannot be ready before it is aborted
    server.launch()
    first = FirstStart(server, "preprocessing")
    os.kill(first.triton, signal.SIGABRT)
    server.wait_until_ready()
    assert_serves(server)
    assert not first.found()
    assert "it ended with signal 6; trying again, attempt 2 of 3" in server.log()


def test_an_abort_after_the_start_ends_serve(server: ServerProcess) -> None:
    server.start()
    assert_serves(server)
    # serve.py looks twice a second; it takes an abort before that for one of the start.
    eventually(lambda: "tritonserver is ready" in server.log(), "serve.py sees it")
    os.kill(server_of(server.pid) or 0, signal.SIGABRT)
    assert server.wait() == 128 + signal.SIGABRT
    assert "trying again" not in server.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_start_that_hangs(repository: Path, tmp_path: Path, number: int) -> None:
    hang(repository, 3)
    server = ServerProcess(repository, free_ports(), tmp_path / "server.log")
    server.launch()
    first = FirstStart(server, "preprocessing")
    folder = repository / "preprocessing" / "1"
    eventually(lambda: len(list(folder.glob("hang-*"))) == 2, "the model hangs")
    os.kill(server.pid, number)
    assert server.wait() == 128 + signal.SIGTERM
    assert not first.found()
    assert "trying again" not in server.log()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.of(start_stop, monkeypatch)


STUBS = {Stub(number, f"region-{number}", room) for number, room in enumerate(SIGNS)}


def watch(folder: Path) -> StartWatch:
    return StartWatch(folder, 10.0, ("127.0.0.1", free_ports().http))


def load(folder: Path, *rooms: str) -> None:
    for room in rooms:
        (folder / SIGNS[room]).touch()


def test_an_engine_may_take_as_long_as_it_likes(tmp_path: Path, clock: Clock) -> None:
    start = watch(tmp_path)
    assert start.check(STUBS) == ""
    load(tmp_path, *SIGNS)
    clock.now = 1e6
    assert start.check(STUBS) == ""
    (tmp_path / OPEN).touch()
    assert start.check(STUBS) == ""
    clock.now += 9
    assert start.check(STUBS) == ""
    clock.now += 2  # all is loaded, and the server does not listen: Triton waits for a stub
    assert start.check(STUBS) == "none of its models made progress in 10 s"


@pytest.mark.parametrize("stuck", SIGNS)
def test_a_room_that_does_not_load_is_named(tmp_path: Path, clock: Clock, stuck: str) -> None:
    start = watch(tmp_path)
    assert start.check(STUBS) == ""
    load(tmp_path, *SIGNS.keys() - {stuck})
    clock.now = 9
    assert start.check(STUBS) == ""
    clock.now = 11
    assert start.check(STUBS) == f"its model {stuck} made no progress in 10 s"


def test_every_new_stub_is_progress(tmp_path: Path, clock: Clock) -> None:
    start = watch(tmp_path)
    for clock.now in range(0, 90, 9):
        assert start.check({Stub(int(clock.now), "region", "preprocessing")}) == ""
    clock.now += 11
    assert start.check(set()) == "its model preprocessing made no progress in 10 s"


def test_a_server_without_any_stub_is_stuck(tmp_path: Path, clock: Clock) -> None:
    start = watch(tmp_path)
    clock.now = 11
    assert start.check(set()) == "none of its models made progress in 10 s"


def test_somebody_elses_model_may_take_as_long_as_it_likes(tmp_path: Path, clock: Clock) -> None:
    start = watch(tmp_path)
    stubs = STUBS | {Stub(99, "region-99", "reranker")}
    load(tmp_path, *SIGNS)
    (tmp_path / OPEN).touch()
    assert start.check(stubs) == ""
    clock.now = 1e6
    assert start.check(stubs) == ""
    assert start.check(STUBS) == "none of its models made progress in 10 s"


@pytest.mark.parametrize("option", ["--start-timeout", "--exit-timeout"])
@pytest.mark.parametrize("text", ["-1", "nan", "inf", "soon"])
def test_a_timeout_must_be_seconds(
    option: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        serve.main([f"{option}={text}"])
    assert ended.value.code == 2
    assert f"{option}: must be seconds, 0 or more, not {text!r}" in capsys.readouterr().err


def test_a_start_timeout_must_be_above_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        serve.main(["--start-timeout=0"])
    assert "--start-timeout: must be seconds above 0, not '0'" in capsys.readouterr().err


def test_a_server_is_ready_when_all_its_ports_are_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton opens gRPC's first: a call over HTTP a moment later could still be refused."""
    idle = tmp_path / "idle.py"
    idle.write_text("import signal\nsignal.pause()\n")
    monkeypatch.setattr(child_server, "SERVE", idle)
    monkeypatch.setattr(Client, "is_ready", lambda self: True)
    server = ServerProcess(tmp_path, free_ports(), tmp_path / "log")
    with socket.create_server((server.ports.host, server.ports.metrics)):
        with pytest.raises(BuildError, match="the server was not ready in 0 s"):
            server.start(timeout_s=0)
        with socket.create_server((server.ports.host, server.ports.http)):
            server.start(timeout_s=0)
            server.stop()
