"""The vLLM runtime in a real engine process, under room 2, on the fake library.

The process is another interpreter's, as it is where the server's own cannot have vLLM's packages.
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
from typing import Any

import numpy as np
import pytest
from conftest import compile_engine
from engine_config import load_engine_config
from engine_description import write_description
from generation_inputs import read_inputs
from generation_room import GenerationRoom
from processes import eventually, is_alive
from request_row import EngineUnavailable
from tensorrt_llm_fakes.fake_sampler import model_logits
from test_generation_room import Recorder
from token_engine.interface import EngineLoadError

SITE = Path(__file__).parent / "library_fakes" / "site"
PROMPT = [301, 302, 303, 40, 50]
Opened = Callable[..., GenerationRoom]


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the demo checkpoint, whose tokenizer's table room 2 needs."""
    folder = tmp_path_factory.mktemp("process") / "engine"
    limits = ("--max-batch-size", "4", "--max-queue-size", "8", "--max-num-tokens", "64")
    compile_engine("--output", str(folder), "--runtime", "replay", *limits)
    return folder


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    """Python by another name, which alone knows the fake library; it notes that it ran."""
    script = tmp_path / "python-with-vllm"
    script.write_text(
        f'#!/bin/sh\necho "$$" >> {shlex.quote(str(tmp_path / "started"))}\n'
        f'PYTHONPATH={shlex.quote(str(SITE))} exec {shlex.quote(sys.executable)} "$@"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
    return script


@pytest.fixture
def opened(replay: Path, interpreter: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    rooms: list[GenerationRoom] = []

    def make(log: list[str] | None = None, python: str = str(interpreter), **behaviour: Any) -> Any:
        monkeypatch.setenv("VLLM_FAKE", json.dumps({"version": "0_32", **behaviour}))
        monkeypatch.setenv("PYTHONPATH", "/nonexistent")  # the server's, not the engine's
        config = load_engine_config(replay)
        changed = dataclasses.replace(
            config, runtime="vllm", runtime_options={}, engine_python=python
        )
        write_description(replay, changed)
        rooms.append(GenerationRoom(replay, (log if log is not None else []).append))
        rooms[-1].open()
        return rooms[-1]

    yield make
    for room in rooms:
        room.close()


def ask(room: GenerationRoom, max_tokens: int, **more: Any) -> Recorder:
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
    output: list[int] = []
    while len(output) < count:
        logits = model_logits([*PROMPT, *output], room.config.model.vocab_size)
        output.append(int(logits.argmax()))
    return output


def test_requests_through_another_interpreter(opened: Opened, tmp_path: Path) -> None:
    room = opened()
    replies = [ask(room, 12 + number) for number in range(9)]
    for number, reply in enumerate(replies):
        assert reply.tokens() == model_tokens(room, 12 + number)
    refused = ask(room, 5, temperature=np.float32(3.0))
    assert refused.events.get(timeout=20) == (
        "temperature is 3, the vllm runtime allows only 0, and 0.01 to 2"
    )
    assert len((tmp_path / "started").read_text().split()) == 1


def test_a_dead_engine_core_is_replaced(opened: Opened) -> None:
    """Those who wait are told, and the next process serves again."""
    log: list[str] = []
    room = opened(log, die_at_step=60)
    assert ask(room, 10).tokens() == model_tokens(room, 10)
    lost = ask(room, 500)
    events: list[Any] = [None]
    while not isinstance(events[-1], str):
        events.append(lost.events.get(timeout=20))
    assert events[-1].startswith("the engine process ended with exit code 1")
    eventually(lambda: "the engine is ready again" in log, "a new engine process")
    assert retried(room).tokens() == model_tokens(room, 5)


def test_what_the_library_spawned_ends_with_a_killed_engine_process(
    opened: Opened, tmp_path: Path
) -> None:
    """It would keep the GPU's memory, and the next engine process would not fit."""
    pid_file = tmp_path / "spawned"
    room = opened(spawns=str(pid_file))
    spawned = int(pid_file.read_text())
    assert is_alive(spawned)
    wait_until_the_hook_is_set(spawned)
    child = room._supervisor._child
    assert child is not None
    os.kill(child.process.pid, signal.SIGKILL)
    eventually(lambda: not is_alive(spawned), "the spawned process is gone")


def wait_until_the_hook_is_set(pid: int) -> None:
    """The spawned process imports the main module first, and then sleeps."""

    def sleeps() -> bool:
        return "nanosleep" in Path(f"/proc/{pid}/wchan").read_text()

    eventually(sleeps, "the spawned process runs")


def retried(room: GenerationRoom) -> Recorder:
    replies: list[Recorder] = []

    def submitted() -> bool:
        try:
            replies.append(ask(room, 5))
        except EngineUnavailable:
            return False
        return True

    eventually(submitted, "a ready engine")
    return replies[0]


@pytest.mark.parametrize(
    ("python", "expected"),
    [
        ("/nonexistent/bin/python", "engine_python is '/nonexistent/bin/python', allowed is"),
        ("python3", "engine_python is 'python3', allowed is the absolute path"),
    ],
)
def test_an_interpreter_that_is_not_there_is_named(
    opened: Opened, python: str, expected: str
) -> None:
    with pytest.raises(EngineLoadError, match=expected):
        opened(python=python)


def test_an_interpreter_without_the_library(opened: Opened) -> None:
    with pytest.raises(EngineLoadError, match=r"vLLM cannot be imported .*install vllm"):
        opened(python=sys.executable)
