"""The TensorRT-LLM runtime in a real engine process, under room 2, on the fake library.

The fake is put on PYTHONPATH, as the package is on the image's path: the process is started, warmed
up, fed, cancelled, killed and started anew as it would be on a GPU.
"""

from __future__ import annotations

import dataclasses
import json
import time
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
from request_row import EngineUnavailable
from request_sequences import RoomResponse
from tensorrt_llm_fakes.fake_sampler import model_logits
from test_generation_room import Recorder
from token_engine.interface import EngineLoadError

SITE = Path(__file__).parent / "tensorrt_llm_fakes" / "site"
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
def opened(replay: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    rooms: list[GenerationRoom] = []

    def make(
        version: str = "1_2", log: list[str] | None = None, path: str = str(SITE), **behaviour: Any
    ) -> GenerationRoom:
        monkeypatch.setenv("PYTHONPATH", path)
        monkeypatch.setenv("TENSORRT_LLM_FAKE", json.dumps({"version": version, **behaviour}))
        config = load_engine_config(replay)
        changed = dataclasses.replace(config, runtime="tensorrt_llm", runtime_options={})
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


@pytest.mark.parametrize("version", ["1_0", "1_2", "head"])
def test_requests_through_the_real_process(opened: Opened, version: str) -> None:
    log: list[str] = []
    room = opened(version, log)
    replies = [ask(room, 12 + number) for number in range(9)]
    for number, reply in enumerate(replies):
        assert reply.tokens() == model_tokens(room, 12 + number)
    assert [line.split(":")[0] for line in log] == ["engine load", "warm-up"]


def test_sampling_cancels_and_refusals_through_the_real_process(opened: Opened) -> None:
    room = opened(step_seconds=0.002)
    endless = ask(room, 1500)
    sampled = [ask(room, 20, temperature=np.float32(0.9), seed=np.uint64(7)) for _ in range(2)]
    refused = ask(room, 20, logprobs=np.int32(3))
    room.cancel(1)
    drawn = [reply.tokens() for reply in sampled]
    assert drawn[0] == drawn[1]
    assert drawn[0] != model_tokens(room, 20)
    message = refused.events.get(timeout=20)
    assert message == (
        "logprobs is 3, the tensorrt_llm runtime allows only 0, the chosen token's (TRTLLMSampler)"
    )
    events = [endless.events.get(timeout=20)]
    while not (isinstance(events[-1], RoomResponse) and events[-1].finish_reason):
        events.append(endless.events.get(timeout=20))
    assert isinstance(events[-1], RoomResponse)
    assert events[-1].finish_reason == "cancelled"


def test_dead_workers_are_replaced(opened: Opened) -> None:
    """The library's workers die under a request; the engine process ends, and is started anew."""
    log: list[str] = []
    room = opened(log=log, die_at_step=60)
    assert ask(room, 10).tokens() == model_tokens(room, 10)
    lost = ask(room, 500)
    events: list[Any] = [None]
    while not isinstance(events[-1], str):
        events.append(lost.events.get(timeout=20))
    assert events[-1].startswith("the engine process ended with exit code 1")
    end = time.monotonic() + 30
    while "the engine is ready again" not in log:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert again(room).tokens() == model_tokens(room, 5)


def again(room: GenerationRoom) -> Recorder:
    try:
        return ask(room, 5)
    except EngineUnavailable:  # between the two
        time.sleep(0.2)
        return ask(room, 5)


def test_a_machine_without_gpus(opened: Opened) -> None:
    with pytest.raises(EngineLoadError, match=r"no NVIDIA GPU is to be seen .*make doctor"):
        opened(gpus=0)


def test_a_machine_without_the_package(opened: Opened) -> None:
    with pytest.raises(EngineLoadError, match=r"TensorRT-LLM cannot be imported .*tritonserver:"):
        opened(path="")
