"""The installed SGLang: the one place that imports it.

Written against the sources of 0.5.23. No build of SGLang runs on a CPU alone, so the tests use a
fake made after those sources. Earlier versions take other parameters.
"""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass
from typing import Any

from token_engine.checks import Capability
from token_engine.interface import EngineLoadError
from token_engine.library_results import not_as_known, one_line

OLDEST = (0, 5, 23)
INSTALL = "install sglang 0.5.23 or later into the Python that runs the engine"
KNOWN = "install sglang 0.5.23, the latest one that it was written against"


@dataclass(frozen=True)
class Library:
    """The parts that the runtime uses."""

    version: str
    engine: Any  # the class
    argument_names: frozenset[str]  # of ServerArgs
    gpu: str  # its name; "" without one
    capability: Capability  # (0, 0) without one
    gpus: int


def import_library() -> Library:
    """Raises `EngineLoadError` if SGLang is not installed, too old or broken."""
    # Else log-probabilities are those of the logits after temperature. Read at import.
    os.environ["SGLANG_RETURN_ORIGINAL_LOGPROB"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"  # the checkpoint lies here
    try:
        version = str(importlib.import_module("sglang").__version__)
        engine = importlib.import_module("sglang.srt.entrypoints.engine")
        arguments = importlib.import_module("sglang.srt.server_args")
        cuda = importlib.import_module("torch").cuda
    except Exception as error:  # torch and CUDA raise exceptions of many kinds at import
        raise EngineLoadError(
            f"SGLang cannot be imported ({one_line(error)}); {INSTALL}"
        ) from error
    if tuple(int(number) for number in re.findall(r"\d+", version)[:3]) < OLDEST:
        raise EngineLoadError(f"SGLang is {version} and must be 0.5.23 or later; {INSTALL}")
    try:
        names = frozenset(arguments.ServerArgs.__struct_fields__)
        return Library(version, engine.Engine, names, *_gpus(cuda))
    except AttributeError as error:  # a later version's names
        raise EngineLoadError(not_as_known("SGLang", version, error, KNOWN)) from error


def _gpus(cuda: Any) -> tuple[str, Capability, int]:
    count = cuda.device_count()
    if not count:
        return "", (0, 0), 0
    return str(cuda.get_device_name(0)), tuple(cuda.get_device_capability(0)), count
