"""Tests of runtimes whose library has its own workers, in a real engine process under room 2.

With the fake library the process is started, warmed up, used, killed and restarted as it would be
on a GPU. pytest collects the tests in the subclasses.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from engine_config import load_engine_config
from engines.engine_json import write_description
from generation_room import GenerationRoom
from request_inputs.generation import read_inputs
from request_inputs.rows import EngineUnavailable
from response_outputs.room_response import RoomResponse
from token_engine.interface import EngineLoadError

from tests.fakes.tensorrt_llm.fake_sampler import model_logits
from tests.support.deployments import compile_engine
from tests.support.processes import eventually, is_alive
from tests.support.runtime_subject import is_idle
from tests.tensorrt_llm.test_generation_room import Recorder

PROMPT = [301, 302, 303, 40, 50]
Opened = Callable[..., GenerationRoom]


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the demo checkpoint, whose tokenizer's table room 2 needs."""
    folder = tmp_path_factory.mktemp("process") / "engine"
    size = ("--max-seq-len", "2000", "--max-num-tokens", "64")
    limits = (*size, "--max-batch-size", "4", "--max-queue-size", "8")
    return compile_engine(folder, "--runtime", "replay", *limits)


def interpreter(folder: Path, site: Path) -> Path:
    """A second Python, the only one with the fake library; it records each start."""
    script = folder / "python-with-the-library"
    script.write_text(
        f'#!/bin/sh\necho "$$" >> {shlex.quote(str(folder / "started"))}\n'
        f'PYTHONPATH={shlex.quote(str(site))} exec {shlex.quote(sys.executable)} "$@"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
    return script


def ask(room: GenerationRoom, max_tokens: int, **more: Any) -> Recorder:
    """A streamed request that no end id ends."""
    arrays = {
        "input_ids": np.array([PROMPT], np.int32),
        "request_output_len": np.array([[max_tokens]], np.int32),
        "streaming": np.array([[True]]),
        "ignore_eos": np.array([[True]]),
        **{name: np.array([[value]]) for name, value in more.items()},
    }
    reply = Recorder()
    room.submit(read_inputs(arrays, room.config), reply)
    return reply


def model_tokens(room: GenerationRoom, count: int) -> list[int]:
    """The greedy tokens that such a request must get."""
    output: list[int] = []
    while len(output) < count:
        logits = model_logits([*PROMPT, *output], room.config.model.vocab_size)
        output.append(int(logits.argmax()))
    return output


def retried(room: GenerationRoom) -> Recorder:
    """Ask until an engine is ready."""
    replies: list[Recorder] = []

    def submitted() -> bool:
        try:
            replies.append(ask(room, 5))
        except EngineUnavailable:
            return False
        return True

    eventually(submitted, "a ready engine")
    return replies[0]


class ProcessSuite:
    """`opened(python="")` takes the server's own Python, with the fake on PYTHONPATH."""

    runtime: ClassVar[str]
    site: ClassVar[Path]
    version: ClassVar[str]
    library: ClassVar[str]  # in sentences
    death: ClassVar[str] = "the engine process ended with exit code 1"  # of its workers

    @pytest.fixture
    def opened(
        self, replay: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Opened]:
        rooms: list[GenerationRoom] = []
        own = str(interpreter(tmp_path, self.site))

        def make(
            log: list[str] | None = None,
            python: str = own,
            hang_timeout_s: float = 30.0,
            **behaviour: Any,
        ) -> GenerationRoom:
            told = {"version": self.version, **behaviour}
            monkeypatch.setenv(f"{self.runtime.upper()}_FAKE", json.dumps(told))
            monkeypatch.setenv("PYTHONPATH", "/nonexistent" if python else str(self.site))
            config = load_engine_config(replay)
            limits = dataclasses.replace(config.limits, hang_timeout_s=hang_timeout_s)
            changed = dataclasses.replace(
                config,
                runtime=self.runtime,
                runtime_options={},
                engine_python=python,
                limits=limits,
            )
            write_description(replay, changed)
            rooms.append(GenerationRoom(replay, (log if log is not None else []).append))
            rooms[-1].open()
            return rooms[-1]

        yield make
        for room in rooms:
            room.close()

    def test_requests_through_another_interpreter(self, opened: Opened, tmp_path: Path) -> None:
        log: list[str] = []
        room = opened(log)
        replies = [ask(room, 12 + number) for number in range(9)]
        for number, reply in enumerate(replies):
            assert reply.tokens() == model_tokens(room, 12 + number)
        assert [line.split(":")[0] for line in log] == ["engine load", "warm-up"]
        assert len((tmp_path / "started").read_text().split()) == 1

    def test_sampling_and_a_cancel(self, opened: Opened) -> None:
        room = opened(step_seconds=0.002)
        endless = ask(room, 1500)
        sampled = [ask(room, 20, temperature=np.float32(0.9), seed=np.uint64(7)) for _ in range(2)]
        room.cancel(1)
        drawn = [reply.tokens() for reply in sampled]
        assert drawn[0] == drawn[1]
        assert drawn[0] != model_tokens(room, 20)
        events: list[Any] = [None]
        while not (isinstance(events[-1], RoomResponse) and events[-1].finish_reason):
            events.append(endless.events.get(timeout=500))
        assert events[-1].finish_reason == "cancelled"

    def test_the_engines_statistics_reach_room_2(self, opened: Opened) -> None:
        """In the same form for every library."""
        room = opened(step_seconds=0.005)
        supervisor = room._supervisor
        replies = [ask(room, 300) for _ in range(6)]

        def seen() -> bool:
            stats = supervisor.stats
            busy = (stats.active_requests, stats.queued_requests) == (4, 2)
            return busy and 0 < stats.kv_blocks_used < stats.kv_blocks_total

        eventually(seen, "a full batch, two that wait, and KV blocks in use")
        for reply in replies:
            assert len(reply.tokens()) == 300
        stats = supervisor.stats
        assert 0 < stats.prefix_tokens_found < stats.prefix_tokens_looked_up
        eventually(lambda: is_idle(supervisor.stats), "the statistics show that all have ended")
        ask(room, 1500)
        eventually(lambda: supervisor.stats.kv_blocks_used > 0, "one more runs")
        room.cancel(len(replies) + 1)
        eventually(lambda: is_idle(supervisor.stats), "the statistics show that it has left")

    @pytest.mark.parametrize("how", ["die_at_step", "hang_at_step"])
    def test_workers_that_die_or_hang_are_replaced(self, opened: Opened, how: str) -> None:
        """Open requests end with an error, new ones are refused, and the next process serves."""
        log: list[str] = []
        room = opened(log, hang_timeout_s=2.0 if how == "hang_at_step" else 60.0, **{how: 60})
        assert ask(room, 10).tokens() == model_tokens(room, 10)
        lost = [ask(room, 500) for _ in range(6)]
        dead = self.death if how == "die_at_step" else "the engine process ended with exit code 1"
        for reply in lost:
            events: list[Any] = [None]
            while not isinstance(events[-1], str):
                events.append(reply.events.get(timeout=500))
            assert events[-1].startswith(dead)
        if not room.is_ready:
            with pytest.raises(EngineUnavailable):
                ask(room, 5)
        eventually(lambda: "the engine is ready again" in log, "a new engine process")
        assert retried(room).tokens() == model_tokens(room, 5)

    @pytest.mark.parametrize("way", ["asked to end", "the warm-up hangs", "workers hang later"])
    def test_the_library_is_shut_down_on_every_way_out(
        self, opened: Opened, tmp_path: Path, way: str
    ) -> None:
        noted = tmp_path / "shutdowns"
        told = {"notes_shutdown": str(noted), "hang_timeout_s": 1.0}
        if way == "the warm-up hangs":
            with pytest.raises(EngineLoadError, match=r"first forward pass failed: .*made no step"):
                opened(**told, hang_at_step=1)
        elif way == "asked to end":
            opened(**told).close()
        else:
            ask(opened(**told, hang_at_step=60), 500)
        eventually(noted.exists, "the library's shutdown")

    def test_the_librarys_processes_end_with_a_killed_engine_process(
        self, opened: Opened, tmp_path: Path
    ) -> None:
        """They would keep the GPU's memory, and the next engine process would not fit."""
        pid_file = tmp_path / "spawned"
        room = opened(spawns=str(pid_file))
        spawned = int(pid_file.read_text())
        assert is_alive(spawned)
        # The spawned process first imports the main module, then sleeps.
        wchan = Path(f"/proc/{spawned}/wchan")
        eventually(lambda: "nanosleep" in wchan.read_text(), "the spawned process runs")
        child = room._supervisor._child
        assert child is not None
        os.kill(child.process.pid, signal.SIGKILL)
        eventually(lambda: not is_alive(spawned), "the spawned process is gone")

    def test_an_interpreter_without_the_library(self, opened: Opened) -> None:
        with pytest.raises(EngineLoadError, match=f"{self.library} cannot be imported .*; "):
            opened(python=sys.executable)
