"""An engine on the fake library, for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine_config import EngineConfig, Limits
from token_engine.interface import GenerationRequest, SamplingParams
from token_engine.tensorrt_llm_runtime.engine import TensorRtLlmEngine

from tests.fakes.libraries import rigs
from tests.fakes.libraries.rigs import END_IDS as END_IDS
from tests.fakes.libraries.rigs import LIMITS as LIMITS
from tests.fakes.libraries.rigs import VOCAB as VOCAB
from tests.fakes.libraries.rigs import Rig as LibraryRig
from tests.fakes.libraries.rigs import prompt as prompt
from tests.fakes.libraries.rigs import write_model as write_model
from tests.fakes.tensorrt_llm.fake_executor import Behaviour
from tests.fakes.tensorrt_llm.fake_package import Package, install
from tests.fakes.tensorrt_llm.fake_sampler import Floats, model_logits

VERSIONS = ("1_0", "1_2", "head")
GREEDY = SamplingParams()
SAMPLED = replace(GREEDY, greedy=False)
TORCH: dict[str, Any] = {"version": "1_2", "sampler_type": "TorchSampler"}


@dataclass
class Rig(LibraryRig):
    """An engine, the package it runs on, and the `LLM` it made."""

    engine: TensorRtLlmEngine
    package: Package

    @property
    def worker(self) -> Any:
        return self.llm._executor

    @property
    def sent(self) -> Any:
        """The `SamplingParams` of the last request that the library got."""
        return self.llm.requests[-1][1]


Start = Callable[..., Rig]  # the fixture `started`: a version and settings


def engine_config(limits: Limits = LIMITS, **options: Any) -> EngineConfig:
    """The description of an engine for the fake."""
    return rigs.engine_config("tensorrt_llm", limits, **options)


def start(
    folder: Path,
    version: str = "1_2",
    behaviour: Behaviour | None = None,
    limits: Limits = LIMITS,
    **options: Any,
) -> Rig:
    """Load an engine on the fake of that version, in this process."""
    package = install(version, behaviour or Behaviour())
    engine = TensorRtLlmEngine(write_model(folder), engine_config(limits, **options))
    return Rig(engine, package)


def ask(
    key: int,
    ids: Sequence[int],
    max_tokens: int,
    end_ids: tuple[int, ...] = (),
    sampling: SamplingParams | None = None,
    **more: Any,
) -> GenerationRequest:
    """A request; greedy by default."""
    chosen = sampling or SamplingParams()
    return GenerationRequest(key, tuple(ids), max_tokens, end_ids, chosen, **more)


def greedy(ids: Sequence[int], count: int, adjust: Any = None) -> list[int]:
    """The model's greedy tokens; `adjust` changes the logits, given the output so far too."""
    output: list[int] = []
    while len(output) < count:
        logits: Floats = model_logits([*ids, *output], VOCAB)
        if adjust is not None:
            logits = adjust(logits, output)
        output.append(int(logits.argmax()))
    return output
