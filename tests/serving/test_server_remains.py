"""serve.py and tritonserver are both killed: what they leave is removed, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_fp4 import Client
from serving.child_server import ServerProcess, free_ports
from serving.cleanup import NOTE, PREFIX, read_note, remove_dead_servers, write_note
from serving.processes import SHARED_MEMORY, region_prefix

from tests.support.processes import Remains, children, eventually, is_alive, regions


def test_killing_everything_under_load_leaves_nothing_behind(server: ServerProcess) -> None:
    remains = Remains(server)
    with Client(server.ports.url("grpc")) as client:
        streams = [client.stream(f"Hello {index}", max_tokens=2000) for index in range(32)]
        for chunks in streams:
            next(chunks)
        os.kill(server.pid, signal.SIGKILL)
        os.kill(remains.triton, signal.SIGKILL)
    eventually(lambda: not remains.found(), "the stubs see that the server died and clean up")


def test_stubs_that_hang_after_everything_was_killed_are_killed(server: ServerProcess) -> None:
    """A stub that waits for the server's answer holds the lock that its end needs."""
    remains = Remains(server)
    for stub in remains.stubs:
        os.kill(stub.pid, signal.SIGSTOP)
    os.kill(server.pid, signal.SIGKILL)
    os.kill(remains.triton, signal.SIGKILL)
    eventually(lambda: not remains.found(), "what watches over serve.py cleans up")


def test_the_next_start_removes_what_dead_servers_left_and_nothing_else(
    server: ServerProcess,
    replay_server: ServerProcess,
    replay_repository: Path,
    tmp_path: Path,
) -> None:
    remains, living = Remains(server), Remains(replay_server)
    for stub in remains.stubs:
        os.kill(stub.pid, signal.SIGSTOP)
    for pid in [*children(server.pid), server.pid]:
        os.kill(pid, signal.SIGKILL)
    server.wait()
    eventually(lambda: not is_alive(remains.triton), "tritonserver is dead")
    assert all(is_alive(stub.pid) for stub in remains.stubs)
    assert len(regions(remains.stubs)) == 4
    with ServerProcess(replay_repository, free_ports(), tmp_path / "other.log"):
        pass
    assert not remains.found()
    assert all(is_alive(stub.pid) for stub in living.stubs)
    assert len(regions(living.stubs)) == 4


@pytest.fixture
def dead_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a dead serve.py with a dead server, which left one region."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"{PREFIX}dead"
    folder.mkdir()
    region = region_of(folder)
    region.touch()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_note(folder, child.pid)
    child.communicate(b"\n")
    change_note(folder, serve=[child.pid, 1])  # in our place, which lives
    yield folder
    region.unlink(missing_ok=True)


def change_note(folder: Path, **changes: object) -> None:
    fields = json.loads((folder / NOTE).read_text())
    (folder / NOTE).write_text(json.dumps(fields | changes))


def region_of(folder: Path) -> Path:
    return SHARED_MEMORY / f"{region_prefix(folder.name)}{os.getpid()}"


def test_a_dead_servers_region_is_freed(dead_note: Path) -> None:
    region = region_of(dead_note)
    another = region.with_name(f"{region_prefix('another')}{os.getpid()}")
    another.touch()
    remove_dead_servers()
    assert not region.exists()
    assert another.exists()
    another.unlink()
    assert not dead_note.exists()


@pytest.mark.parametrize("name", ["boot", "pid_namespace"])
def test_what_another_container_may_run_is_left_alone(dead_note: Path, name: str) -> None:
    """Its server may live in another container that shares /dev/shm and /tmp with this one."""
    change_note(dead_note, **{name: "another"})
    remove_dead_servers()
    assert region_of(dead_note).exists()


@pytest.mark.parametrize("name", ["serve", "server"])
def test_what_a_living_server_uses_is_left_alone(dead_note: Path, name: str) -> None:
    write_note(dead_note, os.getpid())
    living = read_note(dead_note)
    assert living is not None
    change_note(dead_note, **{"serve": [1, 2], "server": [1, 2], name: getattr(living, name)})
    remove_dead_servers()
    assert region_of(dead_note).exists()


def test_another_process_with_a_dead_servers_pid_is_left_alone(dead_note: Path) -> None:
    region = region_of(dead_note)
    shell = ["sh", "-c", "sleep 60; true"]
    with subprocess.Popen(shell, start_new_session=True) as stranger:
        eventually(lambda: len(children(stranger.pid)) == 1, "it has a child in its session")
        change_note(dead_note, server=[stranger.pid, 1])
        remove_dead_servers()
        assert not region.exists()
        assert len(children(stranger.pid)) == 1
        os.killpg(stranger.pid, signal.SIGKILL)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"serve": 1}'])
def test_an_unreadable_note_is_left_alone(dead_note: Path, text: str) -> None:
    (dead_note / NOTE).write_text(text)
    remove_dead_servers()
    assert (dead_note / NOTE).read_text() == text
