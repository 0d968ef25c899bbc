"""Random checkpoints have the real layout and size, and are never half-written."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import make_checkpoint as maker
import numpy as np
import pytest
from checkpoints.nvfp4 import open_checkpoint
from checkpoints.safetensors_file import header_bytes
from host.console import BuildError, run_script
from make_checkpoint import SHAPES, TensorPlan, into_shards, make_checkpoint, plan_tensors

from tests.support.paths import DEMO_CHECKPOINT
from tests.support.small_engines import load_reference, random_prompt, write_checkpoint


def test_8b_shape_has_the_published_sizes() -> None:
    """The file sizes of nvidia/Llama-3.1-8B-Instruct-FP4's two shards."""
    plans = plan_tensors(SHAPES["llama-3.1-8b"])
    shards = into_shards(plans, 5_000_000_000)
    sizes = [len(header(shard)) + sum(plan.size for plan in shard) for shard in shards]
    assert len(plans) == 1027
    assert sum(plan.size for plan in plans) == 6_027_749_376
    assert sizes == [4_977_188_096, 1_050_673_280]


def header(shard: list[TensorPlan]) -> bytes:
    return header_bytes((plan.name, plan.dtype, plan.shape) for plan in shard)


def test_seed_decides_the_bytes(tmp_path: Path) -> None:
    first, second, other = (
        (write_checkpoint(tmp_path / name, seed) / "model.safetensors").read_bytes()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == second
    assert first != other


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_finite_and_of_sane_size(tmp_path: Path, tied: bool) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", tie_word_embeddings=tied)
    logits = load_reference(folder).forward(random_prompt(40, seed=3))
    assert np.isfinite(logits).all()
    assert 0.05 < logits.std() < 5
    assert ("lm_head.weight" in open_checkpoint(folder).tensors) is not tied


def test_tokenizer_is_copied(tmp_path: Path) -> None:
    source = DEMO_CHECKPOINT
    make_checkpoint(tmp_path / "out", SHAPES["demo"], 0, 2**40, tokenizer=source)
    copied = (tmp_path / "out" / "tokenizer.json").read_bytes()
    assert copied == (source / "tokenizer.json").read_bytes()
    with pytest.raises(BuildError, match=r"no tokenizer\.json"):
        make_checkpoint(tmp_path / "none", SHAPES["tiny"], 0, 2**40, tokenizer=tmp_path)


def test_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    monkeypatch.setattr(maker, "_write_shard", no_space)
    with pytest.raises(SystemExit) as exit_info:
        run_script(lambda: make_checkpoint(tmp_path / "out", SHAPES["tiny"], 0, 2**40))
    assert exit_info.value.code == 1
    assert capsys.readouterr().err.startswith("error: the disk is full")
    assert list(tmp_path.iterdir()) == []


def test_disk_too_small_is_refused_before_writing(tmp_path: Path) -> None:
    huge = {**SHAPES["tiny"], "vocab_size": 2**20, "hidden_size": 2**16, "intermediate_size": 2**18}
    huge["num_hidden_layers"] = 100
    with pytest.raises(BuildError, match=r"the disk is full: .* needs .* GB"):
        make_checkpoint(tmp_path / "out", huge, 0, 2**60)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(BuildError, match="not empty"):
        write_checkpoint(tmp_path)
    assert (tmp_path / "letters.txt").read_text() == "dear"


def test_config_says_what_the_published_checkpoint_says(tmp_path: Path) -> None:
    """vLLM looks for NVFP4 only in config.json."""
    folder = write_checkpoint(tmp_path / "checkpoint")
    ours, published = (
        json.loads((one / "config.json").read_text())["quantization_config"]
        for one in (folder, DEMO_CHECKPOINT)
    )
    assert ours.keys() == published.keys()
    for key in ("config_groups", "quant_algo", "quant_method", "kv_cache_scheme"):
        assert ours[key] == published[key], key
