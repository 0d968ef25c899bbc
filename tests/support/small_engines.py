"""Small random checkpoints, engines made of them, and the numpy reference's answer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from compile_engine import compile_engine, parse_arguments
from engine_config import EngineConfig, load_engine_config
from make_checkpoint import SHAPES, make_checkpoint
from reference.numpy_llama import ReferenceLlama, load_checkpoint
from token_engine.interface import GenerationRequest, SamplingParams
from token_engine.openvino_runtime.engine import OpenVinoEngine
from token_engine.openvino_runtime.library import import_openvino

from tests.support.engine_answers import Floats

# tokenizer.json's flags of an added token that matches wherever its text stands.
TOKEN_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
OPENVINO, _ = import_openvino()  # before any test module imports it with its telemetry
Adjust = Callable[[Floats, list[int]], Floats]
SURE_MARGIN = 1e-3  # logits; f32 arithmetic in another order moves them by about 1e-6


def write_checkpoint(folder: Path, seed: int = 1, shard_bytes: int = 2**40, **shape: Any) -> Path:
    """A random checkpoint of the shape "tiny", changed by `shape`, with a byte-level tokenizer."""
    make_checkpoint(folder, {**SHAPES["tiny"], **shape}, seed, shard_bytes)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Four special tokens, then the bytes 0x21 to 0x7e as one token each."""
    special = [{"id": n, "content": f"<|{n}|>", "special": True, **TOKEN_FLAGS} for n in range(4)]
    vocabulary = {f"<|{number}|>": number for number in range(4)}
    vocabulary |= {chr(byte): byte for byte in range(0x21, 0x7F)}
    document = {
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        "added_tokens": special,
    }
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")


def build_engine(
    checkpoint: Path, output: Path, *arguments: str, runtime: str = "openvino"
) -> Path:
    """Compile in f32, as the reference computes; returns the engine's folder."""
    common = ("--checkpoint", str(checkpoint), "--output", str(output), "--max-seq-len", "512")
    precision = ("--precision", "f32") if runtime == "openvino" else ()
    compile_engine(parse_arguments(["--runtime", runtime, *common, *precision, *arguments]))
    return output


def changed_config(folder: Path, **changes: Any) -> EngineConfig:
    """The engine's description with other limits or runtime options."""
    config = load_engine_config(folder)
    limits = {field.name for field in dataclasses.fields(config.limits)}
    chosen = {name: value for name, value in changes.items() if name in limits}
    options = {name: value for name, value in changes.items() if name not in limits}
    return dataclasses.replace(
        config,
        limits=dataclasses.replace(config.limits, **chosen),
        runtime_options={**config.runtime_options, **options},
    )


def load_engine(folder: Path, **changes: Any) -> OpenVinoEngine:
    """Load it with other limits or runtime options than it was built with."""
    return OpenVinoEngine(folder, changed_config(folder, **changes))


def load_reference(checkpoint: Path) -> ReferenceLlama:
    """The independent forward pass on the dequantized weights."""
    return ReferenceLlama(load_checkpoint(checkpoint))


def sure_greedy(
    reference: ReferenceLlama, prompt: Sequence[int], count: int, adjust: Adjust | None = None
) -> list[int]:
    """The reference's greedy tokens, up to where its two best logits come too close to be sure.

    `adjust` changes the logits before each choice; it is given the output so far too.
    """
    reference.reset()
    fed, tokens = list(prompt), list[int]()
    while len(tokens) < count:
        logits = reference.forward(fed)[-1].astype(np.float64)
        if adjust is not None:
            logits = adjust(logits, tokens)
        second, first = np.sort(logits)[-2:]
        if first - second < SURE_MARGIN:
            break
        tokens.append(int(logits.argmax()))
        fed = tokens[-1:]
    return tokens


def random_prompt(length: int, seed: int, vocab_size: int = 512) -> tuple[int, ...]:
    """Token ids without the special ones."""
    return tuple(np.random.default_rng(seed).integers(4, vocab_size, length).tolist())


def request(
    key: int,
    prompt: Sequence[int],
    max_tokens: int,
    end_ids: tuple[int, ...] = (),
    sampling: SamplingParams | None = None,
    **more: Any,
) -> GenerationRequest:
    """A request; greedy by default."""
    chosen = sampling or SamplingParams()
    return GenerationRequest(key, tuple(prompt), max_tokens, end_ids, chosen, **more)
