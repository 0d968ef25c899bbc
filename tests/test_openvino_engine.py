"""The OpenVINO runtime against plain definitions: whoever shares the batch, the tokens stay."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from engine_fixtures import (
    OPENVINO,
    Answer,
    build_engine,
    collect,
    drain,
    generate,
    load_engine,
    load_reference,
    random_prompt,
    request,
    sure_greedy,
    write_checkpoint,
)
from nvfp4_reference import ReferenceLlama
from token_engine.interface import GenerationRequest, SamplingParams
from token_engine.openvino_engine import OpenVinoEngine

Floats = npt.NDArray[np.float64]
PROMPT = random_prompt(20, seed=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="module")
def folder(checkpoint: Path) -> Path:
    return build_engine(checkpoint, checkpoint.parent / "engine")


@pytest.fixture(scope="module")
def engine(folder: Path) -> OpenVinoEngine:
    return load_engine(folder)


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> ReferenceLlama:
    return load_reference(checkpoint)


def sampled(
    seed: int, temperature: float = 1.5, top_k: int = 0, top_p: float = 1.0
) -> SamplingParams:
    return SamplingParams(False, temperature, top_k, top_p, seed=seed)


def mixed_requests() -> list[GenerationRequest]:
    """Greedy and sampled, short and longer than one prefill chunk."""
    samplings = (
        None,
        sampled(1),
        sampled(2, 0.8, 5),
        sampled(3, 1.2, 0, 0.7),
        sampled(4, 2.0, 9, 0.5),
    )
    return [
        request(key, random_prompt(length, seed=key), 12 + key, (), samplings[key % 5])
        for key, length in enumerate((3, 30, 64, 65, 100, 1, 150, 40, 33, 70))
    ]


def test_tokens_do_not_depend_on_the_batch(engine: OpenVinoEngine) -> None:
    """Everyone alone, all at once, and each joining while the earlier ones decode."""
    requests = mixed_requests()
    alone = {one.key: generate(engine, one)[one.key] for one in requests}
    together = generate(engine, *requests)
    joined: dict[int, Answer] = {}
    for one in requests:
        engine.submit(one)
        collect(engine.step(), joined)
        collect(engine.step(), joined)
    drain(engine, joined)
    assert together == alone
    assert joined == alone


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


def test_any_end_id_stops_and_is_not_part_of_the_output(engine: OpenVinoEngine) -> None:
    whole = generate(engine, request(1, PROMPT, 20))[1].tokens
    first = next(i for i, token in enumerate(whole) if i >= 4 and token not in whole[:i])
    end = whole[first]
    never = next(token for token in range(4, 512) if token not in whole)
    cases = {(end,): first, (never, end): first, (end, never): first, (never,): 20, (): 20}
    for key, (end_ids, length) in enumerate(cases.items(), 2):
        answer = generate(engine, request(key, PROMPT, 20, end_ids))[key]
        assert answer.tokens == whole[:length]
        assert answer.reason == ("stop" if length == first else "length")
    last = generate(engine, request(99, PROMPT, first + 1, (end,)))[99]
    assert (last.tokens, last.reason) == (whole[:first], "stop")
    at_once = generate(engine, request(98, PROMPT, 20, (whole[0],)))[98]
    assert (at_once.tokens, at_once.reason) == ([], "stop")


def test_without_end_ids_the_checkpoints_own_do_not_stop(
    engine: OpenVinoEngine, tmp_path: Path, checkpoint: Path
) -> None:
    """`generation_config.json` is not consulted: the request says everything."""
    whole = generate(engine, request(1, PROMPT, 20))[1].tokens
    copy = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    (copy / "generation_config.json").write_text(f'{{"eos_token_id": {whole[2]}}}')
    other = load_engine(build_engine(copy, tmp_path / "engine"))
    never = next(token for token in range(4, 512) if token not in whole)
    answers = generate(other, request(1, PROMPT, 20), request(2, PROMPT, 20, (never,)))
    assert answers[1].tokens == whole
    assert answers[2].tokens == whole


def test_storm_of_cancels_harms_nobody(engine: OpenVinoEngine) -> None:
    """Cancels at every stage: before the first step, in prefill, decoding, ended, unknown."""
    random = Random(1)
    requests = {one.key: one for one in mixed_requests()}
    truth = {key: generate(engine, one)[key] for key, one in requests.items()}
    answers: dict[int, Answer] = {}
    alive: list[int] = []
    cancelled: set[int] = set()
    for turn in range(150):
        key = 1000 + turn
        one = requests[turn % 10]
        engine.submit(request(key, one.prompt_ids, one.max_tokens, (), one.sampling))
        alive.append(key)
        for _ in range(random.randrange(3)):
            victim = random.choice(alive)
            if not answers.get(victim, Answer()).reason:
                cancelled.add(victim)
            engine.cancel(victim)
        engine.cancel(-5)
        if random.random() < 0.7:
            deltas = engine.step()
            assert not cancelled & {delta.key for delta in deltas}
            collect(deltas, answers)
    drain(engine, answers)
    assert len(cancelled) > 30
    survivors = set(alive) - cancelled
    assert len(survivors) > 30
    for key in survivors:
        assert answers[key] == truth[(key - 1000) % 10]
    assert engine.stats().kv_blocks_used == 0


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
    """Of the logits at each position of one prompt."""
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
    logits = compiled(inputs)["logits"][0]
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
