"""The installed vLLM: the one place that imports it.

Tried with 0.32.0 (on a CPU), and written against 0.32 and 0.33. What the runtime uses is the same
in both; an option that a later version lacks is named when the engine is loaded.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from dataclasses import dataclass
from typing import Any

from token_engine.checks import Capability
from token_engine.interface import EngineLoadError
from token_engine.library_results import not_as_known, one_line, release_of

OLDEST = (0, 32)
INSTALL = "install vllm 0.32 or later into the Python that runs the engine"
DOCTOR = "run 'make doctor', and give the container its GPUs (docker run --gpus all)"
KNOWN = "install vllm 0.33, the latest one that it was written against"
# A room admits so many; vLLM's own limits are lower, and a request beyond them ends its engine.
BAD_WORDS, BAD_WORD_TOKENS = 256, 2048


@dataclass(frozen=True)
class Library:
    """The parts that the runtime uses."""

    version: str
    engine_args: Any  # the class AsyncEngineArgs
    async_llm: Any  # the class
    sampling_params: Any  # the class
    structured_outputs_params: Any  # the class
    delta: Any  # RequestOutputKind.DELTA
    tokens_input: Any  # a prompt of token ids
    request_errors: tuple[type[Exception], ...]  # of one request; any other is of the engine
    # Of one request too, and not of its making; EngineGenerateError says what only by its cause.
    failures: tuple[type[Exception], ...]
    cuda: bool
    gpu: str  # its name; "" without CUDA
    capability: Capability  # (0, 0) without CUDA
    gpus: int

    @property
    def argument_names(self) -> set[str]:
        """What this version's EngineArgs take."""
        return {one.name for one in dataclasses.fields(self.engine_args)}


def import_library() -> Library:
    """Raises `EngineLoadError` if vLLM is not installed, too old or broken."""
    _prepare_environment()
    try:
        version = str(importlib.import_module("vllm").__version__)
        arguments = importlib.import_module("vllm.engine.arg_utils")
        async_llm = importlib.import_module("vllm.v1.engine.async_llm")
        sampling = importlib.import_module("vllm.sampling_params")
        inputs = importlib.import_module("vllm.inputs")
        errors = importlib.import_module("vllm.exceptions")
        of_engine = importlib.import_module("vllm.v1.engine.exceptions")
        platforms = importlib.import_module("vllm.platforms")
    except Exception as error:  # torch and CUDA raise exceptions of many kinds at import
        raise EngineLoadError(f"vLLM cannot be imported ({one_line(error)}); {INSTALL}") from error
    if release_of(version) < OLDEST:
        raise EngineLoadError(f"vLLM is {version} and must be 0.32 or later; {INSTALL}")
    try:
        return Library(
            version,
            arguments.AsyncEngineArgs,
            async_llm.AsyncLLM,
            sampling.SamplingParams,
            sampling.StructuredOutputsParams,
            sampling.RequestOutputKind.DELTA,
            inputs.tokens_input,
            (errors.VLLMClientError, ValueError),
            (of_engine.EngineGenerateError, errors.GenerationError, errors.GracefulHTTPError),
            *_gpus(platforms.current_platform),
        )
    except AttributeError as error:  # a later version's names
        raise EngineLoadError(not_as_known("vLLM", version, error, KNOWN)) from error
    except Exception as error:  # vLLM looks for its platform now, and CUDA for the GPUs
        raise EngineLoadError(f"vLLM finds no platform ({one_line(error)}); {DOCTOR}") from error


def _prepare_environment() -> None:
    os.environ["VLLM_NO_USAGE_STATS"] = os.environ["VLLM_DO_NOT_TRACK"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"  # the checkpoint lies here
    # This process has threads, and a fork of them may never run.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    os.environ["VLLM_MAX_NUM_BAD_WORDS"] = str(BAD_WORDS)
    os.environ["VLLM_MAX_BAD_WORDS_TOTAL_TOKENS"] = str(BAD_WORD_TOKENS)


def _gpus(platform: Any) -> tuple[bool, str, Capability, int]:
    if not platform.is_cuda():
        return False, "", (0, 0), 0
    capability = platform.get_device_capability()
    count = importlib.import_module("torch").cuda.device_count()
    return True, str(platform.get_device_name()), (capability.major, capability.minor), count
