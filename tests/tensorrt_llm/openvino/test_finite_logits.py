"""Logits that are not numbers: the engine is never ready, or the one request ends alone."""

from __future__ import annotations

import math
import threading
from multiprocessing.connection import Connection
from multiprocessing.connection import Pipe as open_pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.nvfp4 import open_checkpoint
from engine_config import load_engine_config
from engine_messages import Shutdown
from engine_process import NOT_FINITE, EngineLoop, _generate_once
from engines.openvino_graph import _GraphBuilder
from token_engine.interface import (
    EngineLoadError,
    EngineStats,
    FinishReason,
    GenerationRequest,
    Guide,
    SamplingParams,
    TokenDelta,
    TokenEngine,
    TokenLogprob,
)
from token_engine.openvino_runtime.engine import _Running

from tests.support.engine_fixtures import (
    build_engine,
    load_engine,
    load_reference,
    random_prompt,
    request,
    sure_greedy,
    write_checkpoint,
)

NAN = np.uint16(0x7FC0).tobytes()  # in BF16
POISON = 7  # the token id whose embedding is NaN


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("finite") / "checkpoint")


def poisoned(checkpoint: Path, folder: Path, tensor: str, begin: int, end: int) -> Path:
    """An engine whose weights hold NaN in part of one tensor, which no build lets through."""
    build_engine(checkpoint, folder)
    stored = open_checkpoint(checkpoint).tensors[tensor].data.tobytes()
    weights = bytearray((folder / "openvino_model.bin").read_bytes())
    at = weights.index(stored)
    weights[at + 2 * begin : at + 2 * end] = NAN * (end - begin)
    (folder / "openvino_model.bin").write_bytes(weights)
    return folder


def run_together(
    engine: TokenEngine, *requests: GenerationRequest
) -> tuple[dict[int, list[int]], dict[int, TokenDelta]]:
    """Through the engine process's own loop; returns tokens and last delta of each."""
    ours, theirs = open_pipe()
    for one in requests:
        ours.send(one)
    loop = threading.Thread(target=EngineLoop(engine, theirs).run)
    loop.start()
    tokens: dict[int, list[int]] = {one.key: [] for one in requests}
    ends: dict[int, TokenDelta] = {}
    while len(ends) < len(requests):
        assert ours.poll(30)
        for delta in ours.recv().deltas:
            assert delta.key not in ends
            tokens[delta.key] += delta.token_ids
            if delta.finish_reason is not None:
                ends[delta.key] = delta
    _stop(ours, loop)
    return tokens, ends


def _stop(ours: Connection, loop: threading.Thread) -> None:
    ours.send(Shutdown())
    loop.join(30)
    assert not loop.is_alive()


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_one_requests_nan_ends_that_request_alone(
    checkpoint: Path, tmp_path: Path, precision: str
) -> None:
    row = 64
    folder = poisoned(
        checkpoint,
        tmp_path / "engine",
        "model.embed_tokens.weight",
        POISON * row,
        (POISON + 1) * row,
    )
    engine = load_engine(folder, precision=precision)
    prompts = {key: random_prompt(20, seed=key) for key in range(1, 5)}
    assert all(POISON not in prompt for prompt in prompts.values())
    good = [request(key, prompt, 10, logprobs=0) for key, prompt in prompts.items()]
    drawn = SamplingParams(greedy=False, seed=4)
    bad = [
        request(10, (5, POISON, 9) * 5, 10, logprobs=0),
        request(11, (5, POISON, 9) * 5, 10, sampling=drawn, logprobs=0),
        request(12, (5, POISON, 9) * 5, 10, sampling=drawn),
    ]
    good.append(request(13, random_prompt(20, seed=13), 10, sampling=drawn))
    for _ in range(2):  # their KV blocks go to the next ones
        tokens, ends = run_together(engine, *good, *bad)
        for key in (10, 11, 12):
            assert (ends[key].finish_reason, ends[key].error) == ("error", NOT_FINITE)
        for one in good:
            assert ends[one.key].finish_reason == "length"
            if precision == "f32" and one.sampling.greedy:
                expected = sure_greedy(load_reference(checkpoint), one.prompt_ids, 10)
                assert tokens[one.key][: len(expected)] == expected
    engine.shutdown()


@pytest.mark.parametrize(
    ("more", "sampling"),
    [
        ({}, SamplingParams(greedy=False)),
        ({}, SamplingParams(repetition_penalty=1.5)),
        ({"min_tokens": 2}, SamplingParams()),
        ({"guide": Guide("regex", "a+")}, SamplingParams()),
    ],
    ids=["drawn", "repetition penalty", "banned end", "guide"],
)
def test_one_token_of_that_probability_may_be_chance(
    checkpoint: Path, tmp_path: Path, more: dict[str, Any], sampling: SamplingParams
) -> None:
    """The raw log-probability of a token that is not the likeliest may be any number."""
    engine = load_engine(build_engine(checkpoint, tmp_path / "engine"))
    mark = -math.log(load_engine_config(tmp_path / "engine").model.vocab_size)
    likeliest = _Running(request(1, (4,), 9), None)
    assert math.isnan(engine._logprob(likeliest, mark))
    other = _Running(request(2, (4,), 9, sampling=sampling, **more), None)
    assert [engine._logprob(other, value) for value in (mark, -1.0, mark)] == [mark, -1.0, mark]
    assert math.isnan(engine._logprob(other, mark))
    engine.shutdown()


def test_an_engine_of_nan_is_never_ready(checkpoint: Path, tmp_path: Path) -> None:
    folder = poisoned(checkpoint, tmp_path / "engine", "model.norm.weight", 0, 1)
    engine = load_engine(folder)
    with pytest.raises(EngineLoadError, match=f"first forward pass failed: {NOT_FINITE}"):
        _generate_once(engine, load_engine_config(folder))
    engine.shutdown()


def test_an_engine_of_an_earlier_build_is_not_ready_either(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_GraphBuilder, "_finite_or_zero", lambda self, hidden: hidden)
    folder = poisoned(checkpoint, tmp_path / "engine", "model.norm.weight", 0, 1)
    engine = load_engine(folder)
    with pytest.raises(EngineLoadError, match="first forward pass failed: "):
        _generate_once(engine, load_engine_config(folder))


def test_a_sound_engine_is_ready(checkpoint: Path, tmp_path: Path) -> None:
    folder = build_engine(checkpoint, tmp_path / "engine")
    engine = load_engine(folder)
    _generate_once(engine, load_engine_config(folder))
    assert not engine.has_work
    engine.shutdown()


class NanEngine(TokenEngine):
    """One token a step for each request; those with odd keys get NaN as their second."""

    def __init__(self, in_top: bool) -> None:
        self._in_top = in_top
        self._made: dict[int, int] = {}
        self.cancelled: list[int] = []

    @property
    def has_work(self) -> bool:
        return bool(self._made)

    def submit(self, request: GenerationRequest) -> None:
        self._made[request.key] = 0

    def cancel(self, key: int) -> None:
        self.cancelled.append(key)
        self._made.pop(key)

    def step(self) -> list[TokenDelta]:
        deltas = []
        for key, made in list(self._made.items()):
            value = math.nan if key % 2 and made == 1 else -1.0
            top = ((4, value),) if self._in_top else ()
            logprob = TokenLogprob(-1.0 if self._in_top else value, top)
            self._made[key] += 1
            reason: FinishReason | None = "length" if made == 2 else None
            deltas.append(TokenDelta(key, (4,), reason, logprobs=(logprob,)))
            if reason:
                del self._made[key]
        return deltas

    def stats(self) -> EngineStats:
        return EngineStats(len(self._made))

    def shutdown(self) -> None:
        """Nothing to free."""


@pytest.mark.parametrize("in_top", [True, False])
def test_whatever_the_runtime_its_nan_ends_one_request(in_top: bool) -> None:
    engine = NanEngine(in_top)
    tokens, ends = run_together(engine, *(request(key, (4,), 3, logprobs=1) for key in range(1, 5)))
    for key in (1, 3):
        assert (tokens[key], ends[key].error, ends[key].fault) == ([4], NOT_FINITE, "engine")
    for key in (2, 4):
        assert (tokens[key], ends[key].finish_reason) == ([4, 4, 4], "length")
    assert engine.cancelled == [1, 3]
