"""The numpy reference against transformers' golden tokens, which detect a wrong forward pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import numpy_llama as nvfp4_reference
from reference.numpy_llama import Checkpoint, ReferenceLlama, load_checkpoint, rope_frequencies

from tests.support.golden import GOLDEN
from tests.support.paths import DEMO_CHECKPOINT

CHECKPOINT = DEMO_CHECKPOINT
PROMPTS: list[dict[str, Any]] = GOLDEN["prompts"]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(CHECKPOINT)


@pytest.fixture(scope="module")
def llama(checkpoint: Checkpoint) -> ReferenceLlama:
    return ReferenceLlama(checkpoint)


def generate(llama: ReferenceLlama, prompt: dict[str, Any]) -> list[int]:
    return llama.generate(prompt["prompt_ids"], prompt["max_new_tokens"], GOLDEN["eos_ids"])


def test_golden_belongs_to_the_shipped_weights() -> None:
    weights = (CHECKPOINT / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == GOLDEN["model_sha256"]
    assert len(PROMPTS) >= 24
    assert sum(len(prompt["prompt_ids"]) >= 300 for prompt in PROMPTS) >= 2


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: str(prompt["name"]))
def test_greedy_tokens_equal_transformers(llama: ReferenceLlama, prompt: dict[str, Any]) -> None:
    assert generate(llama, prompt) == prompt["tokens"]


@pytest.mark.parametrize("prompt", PROMPTS[:6], ids=lambda prompt: str(prompt["name"]))
def test_first_log_probabilities(llama: ReferenceLlama, prompt: dict[str, Any]) -> None:
    llama.reset()
    logits = llama.forward(prompt["prompt_ids"])[-1].astype(np.float64)
    logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    for token, expected in prompt["first_top_logprobs"]:
        assert logprobs[token] == pytest.approx(expected, abs=2e-3)


def test_cache_changes_nothing(llama: ReferenceLlama) -> None:
    ids = max((prompt["prompt_ids"] for prompt in PROMPTS), key=len)
    llama.reset()
    whole = llama.forward(ids)
    llama.reset()
    parts = [llama.forward(ids[:100]), llama.forward(ids[100:101]), llama.forward(ids[101:])]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-3)


def test_both_rope_spellings_agree(checkpoint: Checkpoint) -> None:
    config = dict(checkpoint.config)
    parameters = {**config.pop("rope_scaling"), "rope_theta": config.pop("rope_theta")}
    np.testing.assert_array_equal(
        rope_frequencies({**config, "rope_parameters": parameters}),
        rope_frequencies(checkpoint.config),
    )


def swap_nibbles(monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    right = nvfp4_reference.unpack_nibbles
    monkeypatch.setattr(
        nvfp4_reference, "unpack_nibbles", lambda packed: right((packed >> 4) | (packed << 4))
    )
    return load_checkpoint(CHECKPOINT)


def drop_global_scale(monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    right = nvfp4_reference.dequantize
    monkeypatch.setattr(
        nvfp4_reference,
        "dequantize",
        lambda packed, scale, scale_2: right(packed, scale, np.ones_like(scale_2)),
    )
    return load_checkpoint(CHECKPOINT)


def drop_rope_scaling(monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    checkpoint = load_checkpoint(CHECKPOINT)
    return replace(checkpoint, config={**checkpoint.config, "rope_scaling": None})


@pytest.mark.parametrize("broken", [swap_nibbles, drop_global_scale, drop_rope_scaling])
def test_golden_tokens_detect_a_wrong_forward_pass(
    broken: Callable[[pytest.MonkeyPatch], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    llama = ReferenceLlama(broken(monkeypatch))
    with np.errstate(over="ignore"):
        assert any(generate(llama, prompt) != prompt["tokens"] for prompt in PROMPTS)


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no \.safetensors file"):
        load_checkpoint(tmp_path)


def test_an_unknown_rope_type_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match="'yarn' is not one of default, llama3"):
        rope_frequencies({**checkpoint.config, "rope_scaling": {"rope_type": "yarn"}})
