"""TensorRT-LLM: NVIDIA's own runtime of the checkpoint, on one or several Blackwell GPUs.

The library batches, schedules and samples in workers of its own; `loop.py` speaks to
it, and this file is what the engine process drives. `versions.py` knows the versions,
1.0 and later; `sampling.py` has the table of the sampling parameters.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from engine_config import EngineConfig, parse_section

from token_engine.async_loop import AsyncEngine
from token_engine.interface import EngineLoadError, EngineStats, GenerationRequest, TokenDelta
from token_engine.library_results import one_line
from token_engine.tensorrt_llm_runtime.arguments import check_deployment, llm_arguments
from token_engine.tensorrt_llm_runtime.guides import check_guide
from token_engine.tensorrt_llm_runtime.loop import GenerationLoop
from token_engine.tensorrt_llm_runtime.options import TensorRtLlmOptions
from token_engine.tensorrt_llm_runtime.sampling import Part, library_params, refuse_unsupported
from token_engine.tensorrt_llm_runtime.versions import Library, import_library


class TensorRtLlmEngine(AsyncEngine):
    """See the module's docstring."""

    _loop: GenerationLoop

    def __init__(self, directory: Path, config: EngineConfig) -> None:
        self._options = parse_section(TensorRtLlmOptions, config.runtime_options, "runtime_options")
        self._config = config
        self._library = import_library(self._options)
        check_deployment(directory, config, self._options, self._library)
        self._llm = _load(directory, config, self._options, self._library)
        limits = config.limits
        loop = GenerationLoop(
            self._llm,
            self._params,
            functools.partial(check_guide, backend=self._options.guided_decoding_backend),
            self._library.request_error,
            # Each stage of a pipeline works on its own batch.
            limits.max_batch_size * self._options.pipeline_parallel_size,
            limits.hang_timeout_s,
            self._options.scheduler_config.waiting_queue_policy == "priority",
        )
        super().__init__(loop)

    def submit(self, request: GenerationRequest) -> None:
        backend = self._options.guided_decoding_backend
        vocab_size = self._config.model.vocab_size
        refuse_unsupported(request, self._library.sampler, backend, vocab_size)
        self._open.add(request.key)
        longest = len(request.prompt_ids) + (request.min_tokens if request.end_ids else 0)
        limit = self._config.limits.max_num_tokens
        if longest > limit and not self._options.enable_chunked_prefill:
            self._refused.append(_too_long(request.key, longest, limit))
        else:
            self._loop.submit(request)

    def _params(self, part: Part) -> Any:
        model = self._config.model
        return library_params(part, self._library, model.vocab_size, model.eos_token_ids[0])

    def stats(self) -> EngineStats:
        active, queued = self._loop.counts()
        blocks = self._loop.kv_blocks
        # The library reports nothing while it is idle; its last figure is of the last step.
        used = blocks.used if active else 0
        return EngineStats(
            active, queued, blocks.total, used, blocks.prefix_queries, blocks.prefix_hits
        )

    def _shutdown_library(self) -> None:
        self._llm.shutdown()


def _load(
    directory: Path, config: EngineConfig, options: TensorRtLlmOptions, library: Library
) -> Any:
    arguments = llm_arguments(directory, config, options, library)
    try:
        return library.llm(**arguments)
    except Exception as error:  # of pydantic, MPI, CUDA and the library itself
        raise EngineLoadError(
            f"TensorRT-LLM {library.version} cannot load the model in {arguments['model']} "
            f"({one_line(error)}); correct runtime_options in {directory / 'engine.json'}, "
            "and run 'make doctor' to see whether this machine's GPUs fit"
        ) from error


def _too_long(key: int, tokens: int, limit: int) -> TokenDelta:
    return TokenDelta(
        key,
        (),
        "error",
        f"the prompt has {tokens} tokens with its min_tokens and must have at most {limit}: "
        "this engine has enable_chunked_prefill false",
        fault="invalid",
    )
