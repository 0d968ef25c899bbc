"""An engine on the fake library, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from engine_config import EngineConfig, Limits, ModelFacts
from tensorrt_llm_fakes.fake_executor import Behaviour
from tensorrt_llm_fakes.fake_package import Package, install
from tensorrt_llm_fakes.fake_sampler import Floats, model_logits
from token_engine.interface import GenerationRequest, SamplingParams
from token_engine.tensorrt_llm_engine import TensorRtLlmEngine

VOCAB = 300  # more than there are bytes: the fake's guides are made of these
END_IDS = [2, 3, 4]
LIMITS = Limits(max_seq_len=600, max_batch_size=4, max_num_tokens=64, max_queue_size=8)
VERSIONS = ("1_0", "1_2", "head")
GREEDY = SamplingParams()
SAMPLED = replace(GREEDY, greedy=False)
TORCH: dict[str, Any] = {"version": "1_2", "sampler_type": "TorchSampler"}


@dataclass
class Rig:
    """An engine, the package it runs on, and the `LLM` it made."""

    engine: TensorRtLlmEngine
    package: Package

    @property
    def llm(self) -> Any:
        return self.package.llms[-1]

    @property
    def sent(self) -> Any:
        """The `SamplingParams` of the last request that the library got."""
        return self.llm.requests[-1][1]


Start = Callable[..., Rig]  # the fixture `started`: a version and settings


def engine_config(limits: Limits = LIMITS, **options: Any) -> EngineConfig:
    """The description of an engine for the fake."""
    model = ModelFacts("fake", VOCAB, 1, END_IDS, "0" * 64)
    return EngineConfig(1, "tensorrt_llm", model, limits, options)


def write_model(folder: Path) -> Path:
    """What the fake reads of a checkpoint."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"vocab_size": VOCAB}), encoding="utf-8")
    return folder


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


def prompt(length: int, seed: int = 1) -> tuple[int, ...]:
    """Token ids that end nothing."""
    return tuple(np.random.default_rng(seed).integers(5, VOCAB, length).tolist())


def ask(
    key: int,
    ids: Sequence[int],
    max_tokens: int,
    end_ids: tuple[int, ...] = (),
    sampling: SamplingParams | None = None,
    **more: Any,
) -> GenerationRequest:
    """A request; greedy unless told otherwise."""
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
