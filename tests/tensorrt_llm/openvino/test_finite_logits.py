"""Logits that are not numbers: the engine is never ready, or the one request ends alone."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.connection import Pipe as open_pipe
from pathlib import Path
from typing import Any

import numpy as np
import openvino.opset13 as op
import pytest
from checkpoints.nvfp4 import open_checkpoint
from engine_config import load_engine_config
from engine_messages import Shutdown
from engine_process import NOT_FINITE, EngineLoop, _generate_once
from engines import openvino_graph, openvino_guides
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
from token_engine.openvino_runtime.sampling import EqualLogitsWatch

from tests.support.engine_answers import generate
from tests.support.small_engines import (
    build_engine,
    load_engine,
    load_reference,
    random_prompt,
    request,
    sure_greedy,
)

NAN = np.uint16(0x7FC0).tobytes()  # in BF16
VOCAB_SIZE = 512  # of the shape "tiny"
POISON = 7  # the token id whose embedding is NaN


def poisoned(checkpoint: Path, folder: Path, tensor: str, begin: int, end: int) -> Path:
    """An engine whose weights hold NaN in part of one tensor, which no build lets through."""
    return with_nan(build_engine(checkpoint, folder), checkpoint, tensor, begin, end)


def with_nan(folder: Path, checkpoint: Path, tensor: str, begin: int, end: int) -> Path:
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


def row_of(token: int) -> tuple[str, int, int]:
    """The embedding of a token, for `poisoned`."""
    row = 64
    return "model.embed_tokens.weight", token * row, (token + 1) * row


DRAWN = SamplingParams(greedy=False, seed=4)
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, log-probabilities": {"logprobs": 0},
    "drawn": {"sampling": DRAWN},
    "drawn, log-probabilities": {"sampling": DRAWN, "logprobs": 0},
    "top_k": {"sampling": replace(DRAWN, top_k=5)},
    "top_k, cold": {"sampling": replace(DRAWN, top_k=5, temperature=1e-30)},
    "top_k, hot": {"sampling": replace(DRAWN, top_k=5, temperature=1e30)},
    "top_p": {"sampling": replace(DRAWN, top_p=0.3)},
    "top_k and top_p": {"sampling": replace(DRAWN, top_k=5, top_p=0.3)},
    "min_p": {"sampling": replace(DRAWN, min_p=0.1)},
    "cold": {"sampling": replace(DRAWN, temperature=1e-30)},
    "hot": {"sampling": replace(DRAWN, temperature=1e30)},
    "repetition penalty": {"sampling": SamplingParams(repetition_penalty=1.5)},
    "repetition reward": {"sampling": SamplingParams(repetition_penalty=1e-30)},
    "banned end": {"min_tokens": 3, "end_ids": (1, 2)},
    "end": {"end_ids": (0,)},
    "guide": {"guide": Guide("regex", "a+")},
    "guide, drawn": {"guide": Guide("regex", "[a-z]+"), "sampling": replace(DRAWN, top_k=3)},
    "one token": {"max_tokens": 1},
}


def in_way(key: int, prompt: Sequence[int], way: dict[str, Any]) -> GenerationRequest:
    return request(key, prompt, **{"max_tokens": 10, **way})


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_one_requests_nan_ends_that_request_alone(
    checkpoint: Path, tmp_path: Path, precision: str
) -> None:
    engine = load_engine(
        poisoned(checkpoint, tmp_path / "engine", *row_of(POISON)), precision=precision
    )
    bad = [in_way(100 + n, (5, POISON, 9) * 5, way) for n, way in enumerate(WAYS.values())]
    prompts = [random_prompt(20, seed=n) for n in range(len(WAYS))]
    good = [in_way(200 + n, prompts[n], way) for n, way in enumerate(WAYS.values())]
    assert all(POISON not in prompt for prompt in prompts)
    for _ in range(2):  # their KV blocks go to the next ones
        tokens, ends = run_together(engine, *good, *bad)
        for name, one in zip(WAYS, bad, strict=True):
            end = ends[one.key]
            assert (end.finish_reason, end.error, tokens[one.key]) == ("error", NOT_FINITE, []), (
                name
            )
        for name, one in zip(WAYS, good, strict=True):
            assert ends[one.key].finish_reason in ("length", "stop"), name
            assert all(0 <= token < VOCAB_SIZE for token in tokens[one.key])
            if precision == "f32" and one.sampling == SamplingParams() and not one.guide:
                expected = sure_greedy(load_reference(checkpoint), one.prompt_ids, one.max_tokens)
                assert tokens[one.key][: len(expected)] == expected[: len(tokens[one.key])]
    engine.shutdown()


def test_tokens_before_the_nan_are_given(checkpoint: Path, tmp_path: Path) -> None:
    """One of the tokens that are generated has an embedding of NaN."""
    prompt = random_prompt(20, seed=2)
    expected = sure_greedy(load_reference(checkpoint), prompt, 10)
    at = next(n for n, token in enumerate(expected) if n > 1 and token not in prompt)
    folder = poisoned(checkpoint, tmp_path / "engine", *row_of(expected[at]))
    engine = load_engine(folder)
    tokens, ends = run_together(engine, request(1, prompt, 10))
    assert (tokens[1], ends[1].error) == (expected[: at + 1], NOT_FINITE)
    engine.shutdown()


def test_a_guides_tokens_before_the_nan_are_given(checkpoint: Path, tmp_path: Path) -> None:
    engine = load_engine(poisoned(checkpoint, tmp_path / "engine", *row_of(ord("x"))))
    tokens, ends = run_together(engine, request(1, (5, 6), 10, guide=Guide("regex", "abxcd")))
    assert (bytes(tokens[1]), ends[1].error) == (b"abx", NOT_FINITE)  # as `write_tokenizer` numbers
    engine.shutdown()


def test_sound_logits_are_those_of_an_engine_without_alarm(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit, and so whatever is drawn from them."""
    requests = [
        in_way(n, random_prompt(20, seed=n), {**way, "logprobs": 0})
        for n, way in enumerate(WAYS.values(), 1)
        if "guide" not in way  # they start when they are proven: in one batch or another
    ]
    engine = load_engine(build_engine(checkpoint, tmp_path / "engine"))
    answers = generate(engine, *requests)
    older = load_engine(older_engine(checkpoint, tmp_path / "older", monkeypatch))
    assert generate(older, *requests) == answers
    engine.shutdown()
    older.shutdown()


def older_engine(checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As built before there was an alarm: a row that is not finite has equal logits."""

    def equal_logits(self: _GraphBuilder, hidden: Any, head: Any) -> Any:
        size = op.reduce_sum(op.abs(hidden), op.constant(np.array([-1])), True)
        is_finite = op.less_equal(size, op.constant(np.finfo(np.float32).max))
        finite = op.select(is_finite, hidden, op.constant(np.float32(0)))
        return op.matmul(finite, head, False, True)

    with monkeypatch.context() as patch:
        patch.setattr(_GraphBuilder, "_logits", equal_logits)
        patch.setattr(openvino_graph, "with_alarm", lambda checkpoint: checkpoint)
        patch.setattr(openvino_guides, "ALARMS", 0)
        return build_engine(checkpoint, folder)


def test_an_engine_of_an_earlier_build_is_served(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It detects NaN where the request wants log-probabilities, and where nothing is cut off."""
    folder = older_engine(checkpoint, tmp_path / "engine", monkeypatch)
    engine = load_engine(with_nan(folder, checkpoint, *row_of(POISON)))
    known = ["greedy, log-probabilities", "drawn", "drawn, log-probabilities"]
    bad = [in_way(n, (5, POISON, 9) * 5, WAYS[way]) for n, way in enumerate(known, 1)]
    prompt = random_prompt(20, seed=1)
    guided = in_way(11, prompt, WAYS["guide"])
    tokens, ends = run_together(engine, *bad, request(10, prompt, 10), guided)
    assert [ends[one.key].error for one in bad] == [NOT_FINITE] * len(bad)
    expected = sure_greedy(load_reference(checkpoint), prompt, 10)
    assert tokens[10][: len(expected)] == expected
    assert ends[11].finish_reason == "length"
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
    more: dict[str, Any], sampling: SamplingParams
) -> None:
    """In an engine of an earlier build: the raw log-probability of a token that is not the
    likeliest may be any number."""
    mark = -math.log(VOCAB_SIZE)
    likeliest = EqualLogitsWatch(request(1, (4,), 9, logprobs=0), VOCAB_SIZE)
    assert likeliest.is_unsound((4,), (mark,))
    chosen = request(2, (4,), 9, sampling=sampling, logprobs=0, **more)
    other = EqualLogitsWatch(chosen, VOCAB_SIZE)
    assert not any(other.is_unsound((4,), (value,)) for value in (mark, -1.0, mark))
    assert other.is_unsound((4,), (mark,))


def test_an_engine_of_nan_is_never_ready(checkpoint: Path, tmp_path: Path) -> None:
    folder = poisoned(checkpoint, tmp_path / "engine", "model.norm.weight", 0, 1)
    engine = load_engine(folder)
    with pytest.raises(EngineLoadError, match=f"first forward pass failed: {NOT_FINITE}"):
        _generate_once(engine, load_engine_config(folder))
    engine.shutdown()


def test_an_engine_of_an_earlier_build_is_not_ready_either(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = older_engine(checkpoint, tmp_path / "engine", monkeypatch)
    engine = load_engine(with_nan(folder, checkpoint, "model.norm.weight", 0, 1))
    with pytest.raises(EngineLoadError, match=f"first forward pass failed: {NOT_FINITE}"):
        _generate_once(engine, load_engine_config(folder))
    engine.shutdown()


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
