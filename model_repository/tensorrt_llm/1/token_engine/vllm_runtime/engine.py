"""vLLM: on NVIDIA GPUs from Turing on, with Marlin where they have no FP4; on a CPU from BF16.

The library batches, schedules and samples in a process of its own (EngineCore); `loop.py`
speaks to it, and this file is what the engine process drives. `library.py` knows the versions,
0.32 and later; `sampling.py` has the table of the sampling parameters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine_config import EngineConfig, parse_section

from token_engine.async_loop import AsyncEngine
from token_engine.interface import (
    EngineLoadError,
    EngineStats,
    GenerationRequest,
    UnsupportedParameter,
)
from token_engine.library_results import ODDITIES, one_line
from token_engine.vllm_runtime.arguments import check_deployment, engine_arguments
from token_engine.vllm_runtime.library import Library, import_library
from token_engine.vllm_runtime.loop import VllmLoop
from token_engine.vllm_runtime.options import VllmOptions
from token_engine.vllm_runtime.sampling import library_params, refuse_unsupported


class VllmEngine(AsyncEngine):
    """See the module's docstring."""

    _loop: VllmLoop

    def __init__(self, directory: Path, config: EngineConfig) -> None:
        self._options = parse_section(VllmOptions, config.runtime_options, "runtime_options")
        self._library = import_library()
        check_deployment(directory, self._options, self._library)
        loop = VllmLoop(self._library, config.limits.hang_timeout_s)
        super().__init__(loop)
        try:
            self._llm = _load(loop, directory, config, self._options, self._library)
        except BaseException:
            loop.close()
            raise

    def submit(self, request: GenerationRequest) -> None:
        refuse_unsupported(request, bool(self._options.structured_outputs_backend))
        try:
            params = library_params(request, self._library)
        except Exception as error:
            if not isinstance(error, (*self._library.request_errors, *ODDITIES)):
                raise
            raise UnsupportedParameter(f"the vllm runtime refuses it: {one_line(error)}") from error
        self._open.add(request.key)
        self._loop.submit(request, params)

    def stats(self) -> EngineStats:
        inside, _ = self._loop.counts()
        step = self._loop.step_stats
        active = min(inside, step.running)
        # One block stands for "no block", and is never given to a request.
        blocks = max((self._llm.vllm_config.cache_config.num_gpu_blocks or 0) - 1, 0)
        used = round(step.kv_usage * blocks) if inside else 0
        return EngineStats(
            active, inside - active, blocks, used, step.prefix_queries, step.prefix_hits
        )

    def _shutdown_library(self) -> None:
        self._llm.shutdown()


def _load(
    loop: VllmLoop, directory: Path, config: EngineConfig, options: VllmOptions, library: Library
) -> Any:
    arguments = engine_arguments(directory, config, options, library)
    try:
        return loop.load(arguments)
    except Exception as error:  # of pydantic, CUDA, its processes and the library itself
        raise EngineLoadError(
            f"vLLM {library.version} cannot load the model in {arguments['model']} "
            f"({one_line(error)}); correct runtime_options in {directory / 'engine.json'}, "
            "and run 'make doctor' to see whether this machine's GPUs fit"
        ) from error
