"""Engines on the fake libraries, for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from engine_config import EngineConfig, Limits, ModelFacts
from token_engine.interface import TokenEngine
from token_engine.registry import make_engine

from tests.fakes.libraries import fake_sglang, fake_vllm
from tests.fakes.libraries.signatures import install
from tests.fakes.libraries.worker import Behaviour
from tests.fakes.tensorrt_llm.fake_sampler import Floats, model_logits
from tests.support.runtime_subject import Subject

VOCAB = 300  # more than there are bytes: the fakes' guides are made of these
END_IDS = [2, 3, 4]
LIMITS = Limits(max_seq_len=600, max_batch_size=4, max_num_tokens=64, max_queue_size=8)


@dataclass
class Rig:
    """An engine, the package it runs on, and the library's engine that it made."""

    engine: TokenEngine
    package: Any

    @property
    def llm(self) -> Any:
        return self.package.llms[-1]

    @property
    def worker(self) -> Any:
        """The part of it that batches requests."""
        return self.llm.worker


def engine_config(runtime: str, limits: Limits = LIMITS, **options: Any) -> EngineConfig:
    """The description of an engine for a fake."""
    model = ModelFacts("fake", VOCAB, 1, END_IDS, "0" * 64)
    return EngineConfig(1, runtime, model, limits, options)


def write_model(folder: Path, **config: Any) -> Path:
    """The part of a checkpoint that a fake reads."""
    folder.mkdir(exist_ok=True)
    text = json.dumps({"vocab_size": VOCAB, "max_position_embeddings": 4096, **config})
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


def start_vllm(
    folder: Path,
    version: str = "0_32",
    behaviour: Behaviour | None = None,
    limits: Limits = LIMITS,
    **options: Any,
) -> Rig:
    """Load a vLLM engine on the fake of that version, in this process."""
    package = fake_vllm.Package(version, behaviour or Behaviour())
    install(package.modules())
    if not (folder / "config.json").exists():
        write_model(folder)
    return Rig(make_engine(folder, engine_config("vllm", limits, **options)), package)


def start_sglang(
    folder: Path,
    behaviour: Behaviour | None = None,
    limits: Limits = LIMITS,
    **options: Any,
) -> Rig:
    """Load a SGLang engine on the fake, in this process."""
    package = fake_sglang.Package("0_5_23", behaviour or Behaviour())
    install(package.modules())
    if not (folder / "config.json").exists():
        write_model(folder)
    return Rig(make_engine(folder, engine_config("sglang", limits, **options)), package)


def prompt(length: int, seed: int = 1) -> tuple[int, ...]:
    """Token ids, no end ids among them."""
    return tuple(np.random.default_rng(seed).integers(5, VOCAB, length).tolist())


def logits(tokens: Sequence[int]) -> Floats:
    """The fakes' model."""
    return model_logits(tokens, VOCAB)


def subject_of(runtime: str, rig: Rig, **more: Any) -> Subject:
    """For the shared suite."""
    return Subject(
        runtime,
        rig.engine,
        logits,
        prompt,
        VOCAB,
        (2, 3, 4),
        LIMITS.max_batch_size,
        LIMITS.max_num_tokens,
        LIMITS.max_seq_len,
        **more,
    )
