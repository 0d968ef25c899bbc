"""The BF16 copy of an NVFP4 checkpoint, against the reference's own dequantization."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints.safetensors_file import read_shards
from dense_checkpoint import to_bf16, write_dense_checkpoint
from host.console import BuildError
from reference.numpy_llama import load_checkpoint

from tests.support.paths import DEMO_CHECKPOINT
from tests.support.small_engines import write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


def test_every_weight_is_the_nearest_bf16_of_the_dequantized_one(
    checkpoint: Path, tmp_path: Path
) -> None:
    write_dense_checkpoint(checkpoint, tmp_path / "dense")
    exact, dense = load_checkpoint(checkpoint), load_checkpoint(tmp_path / "dense")
    assert exact.weights.keys() == dense.weights.keys()
    rounded = 0
    for name, values in exact.weights.items():
        copy = dense.weights[name]
        assert copy.shape == values.shape
        # Half a unit in the last of the 8 places of a BF16 number.
        assert np.all(np.abs(copy - values) <= np.abs(values) * 2.0**-8), name
        rounded += np.count_nonzero(copy != values)
    assert rounded
    assert all(tensor.dtype == "BF16" for tensor in read_shards(tmp_path / "dense").values())


def test_ties_are_rounded_to_even() -> None:
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20], np.float32)
    expected = [1.0, 1 + 2**-6, -1.0, 1 + 2**-7]
    values = (to_bf16(ties).astype(np.uint32) << 16).view(np.float32)
    assert values.tolist() == expected


def test_the_copy_says_that_it_is_not_quantized_and_keeps_the_tokenizer(tmp_path: Path) -> None:
    checkpoint = DEMO_CHECKPOINT
    write_dense_checkpoint(checkpoint, tmp_path / "dense")
    config = json.loads((tmp_path / "dense" / "config.json").read_text(encoding="utf-8"))
    original = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" in original
    original.pop("quantization_config")
    assert config == original
    assert not (tmp_path / "dense" / "hf_quant_config.json").exists()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "dense" / name).read_bytes() == (checkpoint / name).read_bytes()


def test_a_checkpoint_that_is_not_nvfp4_is_named(checkpoint: Path, tmp_path: Path) -> None:
    write_dense_checkpoint(checkpoint, tmp_path / "dense")
    with pytest.raises(BuildError, match="quant_algo is null"):
        write_dense_checkpoint(tmp_path / "dense", tmp_path / "again")
    assert not (tmp_path / "again").exists()
