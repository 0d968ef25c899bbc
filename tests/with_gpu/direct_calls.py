"""Each library called as its own documentation does it, to compare the ensemble with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from token_engine.interface import GenerationRequest
from token_engine.tensorrt_llm_runtime.sampling import first_part

Ask = Callable[[list[int], int, int], Coroutine[Any, Any, None]]


def tokens_per_second(
    runtime: str, engine: Any, prompts: list[list[int]], streams: int, count: int
) -> float:
    """Tokens/s of `streams` prompts at once, greedy and streamed, with `count` tokens each."""
    ask = ASKERS[runtime](engine)

    async def together(first: int) -> None:
        await asyncio.gather(
            *(ask(prompts[n % len(prompts)], count, first + n) for n in range(streams))
        )

    loop = engine._loop._loop
    asyncio.run_coroutine_threadsafe(together(10_000), loop).result()  # shapes seen first cost more
    began = time.perf_counter()
    asyncio.run_coroutine_threadsafe(together(20_000), loop).result()
    return streams * count / (time.perf_counter() - began)


def _vllm(engine: Any) -> Ask:
    library, llm = engine._library, engine._llm

    async def ask(prompt: list[int], count: int, number: int) -> None:
        params = library.sampling_params(
            temperature=0,
            max_tokens=count,
            ignore_eos=True,
            detokenize=False,
            output_kind=library.delta,
        )
        async for _ in llm.generate(library.tokens_input(prompt), params, f"direct-{number}"):
            pass

    return ask


def _tensorrt_llm(engine: Any) -> Ask:
    llm, make_params = engine._loop._llm, engine._loop._make_params

    async def ask(prompt: list[int], count: int, number: int) -> None:
        request = GenerationRequest(number, tuple(prompt), count, end_ids=())
        params = make_params(first_part(request))
        async for _ in llm.generate_async(prompt, params, streaming=True):
            pass

    return ask


def _sglang(engine: Any) -> Ask:
    library = engine._engine

    async def ask(prompt: list[int], count: int, number: int) -> None:
        params = {"temperature": 0, "max_new_tokens": count, "ignore_eos": True}
        stream = await library.async_generate(
            input_ids=prompt, sampling_params=params, stream=True, rid=f"direct-{number}"
        )
        async for _ in stream:
            pass

    return ask


ASKERS: dict[str, Callable[[Any], Ask]] = {
    "vllm": _vllm,
    "tensorrt_llm": _tensorrt_llm,
    "sglang": _sglang,
}
