"""SGLang: on NVIDIA GPUs from Ampere on, with Marlin where they have no FP4.

The library batches, schedules and samples in processes of its own; `loop.py` speaks to it,
and this file is what the engine process drives. When one of its processes dies it ends this one
with SIGQUIT, which the supervisor sees. `library.py` knows the versions, 0.5.23 and later;
`sampling.py` has the table of the sampling parameters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine_config import EngineConfig, parse_section

from token_engine.async_loop import AsyncEngine
from token_engine.interface import EngineLoadError, EngineStats, GenerationRequest
from token_engine.library_results import one_line
from token_engine.sglang_runtime.arguments import check_deployment, server_arguments
from token_engine.sglang_runtime.library import Library, import_library
from token_engine.sglang_runtime.loop import SglangLoop
from token_engine.sglang_runtime.options import SglangOptions
from token_engine.sglang_runtime.sampling import library_arguments, refuse_unsupported


class SglangEngine(AsyncEngine):
    """See the module's docstring."""

    _loop: SglangLoop

    def __init__(self, directory: Path, config: EngineConfig) -> None:
        self._eos_ids = config.model.eos_token_ids
        self._options = parse_section(SglangOptions, config.runtime_options, "runtime_options")
        self._library = import_library()
        check_deployment(directory, config, self._options, self._library)
        self._engine = _load(directory, config, self._options, self._library)
        super().__init__(SglangLoop(self._engine, config.limits.hang_timeout_s))

    def submit(self, request: GenerationRequest) -> None:
        refuse_unsupported(
            request,
            self._options.grammar_backend != "none",
            self._options.enable_deterministic_inference,
            self._options.drafts,
            self._eos_ids,
        )
        self._open.add(request.key)
        arguments = library_arguments(request, self._options.enable_deterministic_inference)
        self._loop.submit(request, arguments)

    def stats(self) -> EngineStats:
        inside, _ = self._loop.counts()
        loop = self._loop
        active = min(inside, loop.running)
        page = max(self._options.page_size, 1)
        used = -(-loop.tokens_used // page) if inside else 0
        return EngineStats(
            active,
            inside - active,
            loop.tokens_total // page,
            used,
            loop.prefix_queries,
            loop.prefix_hits,
        )

    def _shutdown_library(self) -> None:
        self._engine.shutdown()


def _load(directory: Path, config: EngineConfig, options: SglangOptions, library: Library) -> Any:
    arguments = server_arguments(directory, config, options, library)
    try:
        return library.engine(**arguments)
    except Exception as error:  # of CUDA, its processes and the library itself
        raise EngineLoadError(
            f"SGLang {library.version} cannot load the model in {arguments['model_path']} "
            f"({one_line(error)}); correct runtime_options in {directory / 'engine.json'}, "
            "and run 'make doctor' to see whether this machine's GPUs fit"
        ) from error
