"""The OpenVINO runtime: the shared suite on the library itself, and its own behaviour."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from reference.numpy_llama import ReferenceLlama
from token_engine.interface import Guide
from token_engine.openvino_runtime.engine import OpenVinoEngine

from tests.support.engine_answers import Answer, collect, drain, generate
from tests.support.golden import Truth
from tests.support.runtime_suite import RuntimeSuite, Subject
from tests.support.small_engines import (
    OPENVINO,
    SURE_MARGIN,
    build_engine,
    changed_config,
    load_engine,
    random_prompt,
    request,
    sure_greedy,
)

Floats = npt.NDArray[np.float64]
VOCAB = 512
PROMPT = random_prompt(20, seed=1)


@pytest.fixture(scope="module")
def engine(folder: Path) -> OpenVinoEngine:
    return load_engine(folder)


@pytest.fixture(scope="module")
def shared(folder: Path, reference: ReferenceLlama) -> Iterator[Subject]:
    config = changed_config(folder, max_batch_size=4, max_num_tokens=64)
    engine = OpenVinoEngine(folder, config)
    yield Subject(
        "openvino",
        engine,
        Truth(reference),
        random_prompt,
        config.model.vocab_size,
        tuple(config.model.eos_token_ids),
        config.limits.max_batch_size,
        config.limits.max_num_tokens,
        config.limits.max_seq_len,
        margin=SURE_MARGIN,
        logprob_error=1e-5,
    )
    engine.shutdown()


class TestOpenVino(RuntimeSuite):
    """The library itself, in f32 as its truth is: the reference on the dequantized weights."""

    @pytest.fixture
    def subject(self, shared: Subject) -> Subject:
        return shared

    def test_a_guide_holds(self, subject: Subject) -> None:
        """Each printable byte is a token here; more is in test_openvino_guides.py."""
        for kind, text in (("regex", "(yes|no)"), ("json_schema", '{"type": "boolean"}')):
            guide = Guide(kind, text)  # type: ignore[arg-type]
            one = subject.request(PROMPT, 30, end_ids=subject.eos, guide=guide)
            (answer,) = subject.answer(one)
            assert answer.reason == "stop", answer
            assert bytes(answer.tokens).decode() in ("yes", "no", "true", "false")


def test_without_end_ids_the_checkpoints_own_do_not_stop(
    engine: OpenVinoEngine, tmp_path: Path, checkpoint: Path
) -> None:
    """`generation_config.json` is not consulted: the request says everything."""
    whole = generate(engine, request(1, PROMPT, 20))[1].tokens
    copy = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    (copy / "generation_config.json").write_text(f'{{"eos_token_id": {whole[2]}}}')
    other = load_engine(build_engine(copy, tmp_path / "engine"))
    never = next(token for token in range(4, VOCAB) if token not in whole)
    answers = generate(other, request(1, PROMPT, 20), request(2, PROMPT, 20, (never,)))
    assert answers[1].tokens == whole
    assert answers[2].tokens == whole


def test_a_late_joiner_in_the_batch_equals_the_reference(
    engine: OpenVinoEngine, reference: ReferenceLlama
) -> None:
    answers: dict[int, Answer] = {}
    engine.submit(request(1, random_prompt(50, seed=50), 40))
    for _ in range(9):
        collect(engine.step(), answers)
    engine.submit(request(2, random_prompt(30, seed=30), 20))
    drain(engine, answers)
    for key, length, count in ((1, 50, 40), (2, 30, 20)):
        expected = sure_greedy(reference, random_prompt(length, seed=length), count)
        assert answers[key].tokens[: len(expected)] == expected
        assert len(answers[key].tokens) == count


@pytest.mark.parametrize("chunk", [16, 17, 64])
def test_a_prompt_cut_in_any_chunks_gives_the_same(
    folder: Path, reference: ReferenceLlama, chunk: int
) -> None:
    engine = load_engine(folder, max_num_tokens=chunk)
    prompt = random_prompt(130, seed=6)
    engine.submit(request(1, prompt, 10))
    answers: dict[int, Answer] = {}
    silent = 0
    while not answers:
        collect(engine.step(), answers)
        silent += not answers
    assert silent == -(-len(prompt) // chunk) - 1
    expected = sure_greedy(reference, prompt, 10)
    assert drain(engine, answers)[1].tokens[: len(expected)] == expected


def test_one_step_gives_each_running_request_one_token(folder: Path) -> None:
    engine = load_engine(folder, max_batch_size=3)
    for key in range(5):
        engine.submit(request(key, PROMPT[: key + 1], 6))
    deltas = engine.step()
    assert [(delta.key, len(delta.token_ids)) for delta in deltas] == [(0, 1), (1, 1), (2, 1)]
    stats = engine.stats()
    assert (stats.active_requests, stats.queued_requests) == (3, 2)
    assert 0 < stats.kv_blocks_used <= stats.kv_blocks_total
    answers: dict[int, Answer] = {}
    collect(deltas, answers)
    drain(engine, answers)
    assert list(answers) == list(range(5))
    assert all(len(answer.tokens) == 6 and answer.reason == "length" for answer in answers.values())
    assert (engine.stats().active_requests, engine.stats().kv_blocks_used) == (0, 0)


def test_a_long_prefill_does_not_hold_up_the_others(folder: Path) -> None:
    engine = load_engine(folder, max_num_tokens=16)
    engine.submit(request(1, PROMPT, 60))
    while not engine.step():
        pass
    engine.submit(request(2, random_prompt(300, seed=3), 2))
    keys = [[delta.key for delta in engine.step()] for _ in range(20)]
    assert keys[:19] == [[1]] * 19
    drain(engine)


def test_cancel_frees_the_kv_cache(folder: Path) -> None:
    """Blocks of cancelled requests serve the next ones: together they would not fit."""
    engine = load_engine(folder, num_kv_blocks=4, enable_prefix_caching=False)
    for key in range(6):
        engine.submit(request(key, random_prompt(100, seed=key), 28))
        for _ in range(3):
            engine.step()
        engine.cancel(key)
        assert drain(engine, most_steps=2) == {}
    assert generate(engine, request(9, PROMPT, 5))[9].reason == "length"


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_more_requests_than_the_kv_cache_holds(
    folder: Path, reference: ReferenceLlama, prefix_caching: bool
) -> None:
    """They wait until there is room, and end with the right tokens."""
    engine = load_engine(folder, num_kv_blocks=4, enable_prefix_caching=prefix_caching)
    prompts = {key: random_prompt(40 + key, seed=key) for key in range(6)}
    for key, prompt in prompts.items():
        engine.submit(request(key, prompt, 60))
    answers = drain(engine, most_steps=3000)
    for key, prompt in prompts.items():
        expected = sure_greedy(reference, prompt, 60)
        assert answers[key].tokens[: len(expected)] == expected
        assert (len(answers[key].tokens), answers[key].reason) == (60, "length")


def test_a_request_that_can_never_fit_ends_with_an_error(folder: Path) -> None:
    engine = load_engine(folder, num_kv_blocks=4)
    fits = request(1, random_prompt(100, seed=1), 29)  # 128 tokens are kept: the last one is not
    too_long = request(2, random_prompt(100, seed=1), 30)
    engine.submit(too_long)
    engine.submit(fits)
    answers = drain(engine, most_steps=200)
    assert (len(answers[1].tokens), answers[1].reason) == (29, "length")
    assert (answers[2].tokens, answers[2].reason) == ([], "error")
    assert "160 tokens of KV cache, there are 128" in answers[2].error
    assert answers[2].fault == "invalid"
    engine.submit(too_long)
    engine.cancel(2)
    assert drain(engine) == {}


def test_prompts_that_begin_alike_share_the_prefix(folder: Path) -> None:
    prompt = random_prompt(320, seed=8)
    steps = {}
    answers = {}
    for caching in (True, False):
        engine = load_engine(folder, enable_prefix_caching=caching, max_num_tokens=32)
        answers[caching] = generate(engine, request(1, prompt, 8))[1]
        count = 0
        engine.submit(request(2, prompt, 8))
        again: dict[int, Answer] = {}
        while engine.has_work:
            collect(engine.step(), again)
            count += 1
        steps[caching] = count
        assert again[2] == answers[caching]
    assert answers[True] == answers[False]
    assert steps == {True: 8, False: 17}


def test_shutdown_with_work_left(folder: Path) -> None:
    engine = load_engine(folder)
    engine.submit(request(1, PROMPT, 50))
    engine.step()
    engine.shutdown()


def relative_error(folder: Path, reference: ReferenceLlama, precision: str, length: int) -> Floats:
    """The relative error of the logits at each position of one prompt."""
    prompt = random_prompt(length, seed=4)
    compiled = OPENVINO.Core().compile_model(
        folder / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": precision}
    )
    inputs = {
        "input_ids": np.array([prompt]),
        "attention_mask": np.ones((1, length), np.int64),
        "position_ids": np.arange(length)[None],
        "beam_idx": np.zeros(1, np.int32),
    }
    logits = compiled(inputs)["logits"][0, :, :-1]  # without the alarm
    reference.reset()
    expected = reference.forward(prompt)
    error: Floats = np.linalg.norm(logits - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return error


def test_bf16_is_as_good_at_far_positions(
    checkpoint: Path, tmp_path: Path, reference: ReferenceLlama
) -> None:
    """Rotary angles must not be computed in bf16, which cannot tell positions above 256 apart."""
    folder = build_engine(checkpoint, tmp_path / "engine", "--max-seq-len", "1024")
    error = relative_error(folder, reference, "bf16", 1024)
    assert error[-100:].mean() < 1.5 * error[:100].mean()
    assert error.max() < 0.05
    assert relative_error(folder, reference, "f32", 1024).max() < 1e-5
