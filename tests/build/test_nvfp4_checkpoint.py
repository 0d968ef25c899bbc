"""Reading a checkpoint: exact bytes, both spellings of its config, a sentence for bad input."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.llama_config import LlamaConfig, load_llama_config
from checkpoints.nvfp4 import open_checkpoint
from host.console import BuildError
from reference import numpy_llama as nvfp4_reference

from tests.support.checkpoint_edits import rewrite_header
from tests.support.small_engines import write_checkpoint

Q_PROJ = "model.layers.1.self_attn.q_proj"
LFS_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 100\n"
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", shard_bytes=60_000)


def test_tensors_are_the_files_bytes(checkpoint: Path) -> None:
    shards = sorted(checkpoint.glob("*.safetensors"))
    assert len(shards) > 1
    truth = {}
    for shard in shards:
        stored = nvfp4_reference.map_safetensors(shard)
        truth.update({name: tensor.values() for name, tensor in stored.items()})
    tensors = open_checkpoint(checkpoint).tensors
    assert tensors.keys() == truth.keys()
    assert tensors[f"{Q_PROJ}.weight_scale_2"].scalar() == float(truth[f"{Q_PROJ}.weight_scale_2"])
    for name, tensor in tensors.items():
        assert tensor.shape == truth[name].shape
        if tensor.dtype == "U8":
            assert tensor.data.tobytes() == truth[name].tobytes()


def edit_config(
    folder: Path, change: Callable[[dict[str, Any]], Any], name: str = "config.json"
) -> None:
    document = json.loads((folder / name).read_text())
    change(document)
    (folder / name).write_text(json.dumps(document))


def test_both_spellings_of_rope_and_an_implied_head_dim(checkpoint: Path) -> None:
    expected = load_llama_config(checkpoint)
    assert expected.rope_theta == 500000.0
    assert expected.rope_scaling is not None

    def respell(document: dict[str, Any]) -> None:
        scaling, theta = document.pop("rope_scaling"), document.pop("rope_theta")
        document["rope_parameters"] = {**scaling, "rope_theta": theta}
        del document["head_dim"]

    edit_config(checkpoint, respell)
    assert load_llama_config(checkpoint) == expected


def test_end_ids_come_from_both_config_files(checkpoint: Path) -> None:
    edit_config(
        checkpoint, lambda document: document.update(eos_token_id=[2, 3]), "generation_config.json"
    )
    edit_config(checkpoint, lambda document: document.update(eos_token_id=1))
    assert load_llama_config(checkpoint).eos_token_ids == (2, 3, 1)


@pytest.mark.parametrize("scaling", [None, LLAMA3, {**LLAMA3, "factor": 32.0}])
def test_rope_frequencies_equal_the_reference(
    checkpoint: Path, scaling: dict[str, Any] | None
) -> None:
    edit_config(checkpoint, lambda document: document.update(rope_scaling=scaling, head_dim=128))
    from engines.openvino_graph import (
        rope_inverse_frequencies,  # after small_engines' import of OpenVINO
    )

    document = json.loads((checkpoint / "config.json").read_text())
    config: LlamaConfig = load_llama_config(checkpoint)
    np.testing.assert_allclose(
        rope_inverse_frequencies(config), nvfp4_reference.rope_frequencies(document), rtol=1e-6
    )


def _set(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, lambda document: document.update(values))


def _quantization(**values: Any) -> Callable[[Path], None]:
    def change(document: dict[str, Any]) -> None:
        document["quantization"].update(values)

    return lambda folder: edit_config(folder, change, "hf_quant_config.json")


def _shard_of(folder: Path, tensor: str) -> Path:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return folder / str(index["weight_map"][tensor])


def _truncate(folder: Path) -> None:
    shard = _shard_of(folder, f"{Q_PROJ}.weight")
    os.truncate(shard, shard.stat().st_size - 1000)


def _rewrite_header(tensor: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the JSON header of a tensor's shard; the tensors' bytes stay."""

    def apply(folder: Path) -> None:
        rewrite_header(folder, change, _shard_of(folder, tensor).name)

    return apply


def _renamed(tensor: str, new: str) -> Callable[[dict[str, Any]], None]:
    return lambda header: header.update({new: header.pop(tensor)})


def _unplaced(tensor: str) -> Callable[[Path], None]:
    return lambda folder: edit_config(
        folder, lambda index: index["weight_map"].pop(tensor), "model.safetensors.index.json"
    )


def _append(folder: Path) -> None:
    with _shard_of(folder, f"{Q_PROJ}.weight").open("ab") as file:
        file.write(b"more")


def _on_top_of_another(header: dict[str, Any]) -> None:
    entry = header[f"{Q_PROJ}.weight"]
    entry["data_offsets"] = [offset - 8 for offset in entry["data_offsets"]]


def _before_the_file(header: dict[str, Any]) -> None:
    header[f"{Q_PROJ}.weight"]["data_offsets"][0] = -8


def _rename(tensor: str, new: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        _rewrite_header(tensor, _renamed(tensor, new))(folder)
        edit_config(
            folder,
            lambda index: index["weight_map"].update({new: index["weight_map"].pop(tensor)}),
            "model.safetensors.index.json",
        )

    return apply


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def unquantize(folder: Path) -> None:
    """Remove both statements that the checkpoint is quantized."""
    (folder / "hf_quant_config.json").unlink()
    edit_config(folder, lambda document: document.pop("quantization_config"))


def _as_bf16(header: dict[str, Any]) -> None:
    entry = header[f"{Q_PROJ}.weight"]
    entry.update(dtype="BF16", shape=[entry["shape"][0], entry["shape"][1] // 2])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated shard": (_truncate, r"model-0000\d-of-\d+\.safetensors is truncated: .*fetch"),
    "empty shard": (
        lambda folder: _shard_of(folder, f"{Q_PROJ}.weight").write_bytes(b""),
        r"is truncated \(0 bytes\)",
    ),
    "missing shard": (
        lambda folder: _shard_of(folder, f"{Q_PROJ}.weight").unlink(),
        r"the shard .*safetensors does not exist; fetch",
    ),
    "header is noise": (
        lambda folder: _shard_of(folder, f"{Q_PROJ}.weight").write_bytes(
            (4).to_bytes(8, "little") + b"\xff" * 40
        ),
        "damaged header",
    ),
    "git LFS pointer": (
        lambda folder: _shard_of(folder, f"{Q_PROJ}.weight").write_text(LFS_POINTER),
        "is a git LFS pointer, not the file; run 'git lfs pull'",
    ),
    "bytes behind the last tensor": (
        _append,
        r"has \d+ bytes, its header accounts for \d+; fetch",
    ),
    "gap between tensors": (
        _rewrite_header(f"{Q_PROJ}.weight", lambda header: header.pop(f"{Q_PROJ}.weight")),
        r"begins at byte \d+ and leaves a gap behind .*must begin at byte \d+; fetch",
    ),
    "tensors overlap": (
        _rewrite_header(f"{Q_PROJ}.weight", _on_top_of_another),
        r"begins at byte \d+ and overlaps model\..*must begin at byte \d+; fetch",
    ),
    "bytes before the file": (
        _rewrite_header(f"{Q_PROJ}.weight", _before_the_file),
        r"q_proj\.weight lies from byte -8 to \d+; fetch",
    ),
    "tensor not in its shard": (
        _rewrite_header(f"{Q_PROJ}.weight", _renamed(f"{Q_PROJ}.weight", f"{Q_PROJ}.bias")),
        f"lacks the tensor {re.escape(Q_PROJ)}.weight that model.safetensors.index.json places",
    ),
    "a shard without an index": (
        _remove("model.safetensors.index.json"),
        r"has model-00001-of-00003\.safetensors, but no .*index\.json that says .*; fetch that",
    ),
    "a tensor in two shards": (
        lambda folder: (folder / "model-00001-of-00003.safetensors").write_bytes(
            (folder / "model-00002-of-00003.safetensors").read_bytes()
        ),
        r"lacks the tensor \S+ that model\.safetensors\.index\.json places there; fetch",
    ),
    "an index that is a list": (
        lambda folder: (folder / "model.safetensors.index.json").write_text("[]"),
        r"index\.json is \[\], but must be a JSON object",
    ),
    "a weight_map that is a list": (
        lambda folder: edit_config(
            folder, lambda index: index.update(weight_map=[1]), "model.safetensors.index.json"
        ),
        r"weight_map is \[1\], but must be an object",
    ),
    "an index that leads out of the folder": (
        lambda folder: edit_config(
            folder,
            lambda index: index["weight_map"].update({f"{Q_PROJ}.weight": "../model.safetensors"}),
            "model.safetensors.index.json",
        ),
        r"q_proj\.weight is '\.\./model\.safetensors', but must be the name of a \.safe",
    ),
    "a shape of fractions": (
        _rewrite_header(
            f"{Q_PROJ}.weight", lambda header: header[f"{Q_PROJ}.weight"].update(shape=[64.0, 32])
        ),
        r"damaged header .*shape",
    ),
    "a header without bottom": (
        lambda folder: _shard_of(folder, f"{Q_PROJ}.weight").write_bytes(
            (200_000).to_bytes(8, "little") + b"[" * 200_000
        ),
        r"damaged header \(RecursionError",
    ),
    "tensor missing": (
        _rename(f"{Q_PROJ}.weight_scale", "model.layers.1.rotary_emb.inv_freq"),
        rf"lacks the tensor {re.escape(Q_PROJ)}.weight_scale, which config.json calls for",
    ),
    "tensor too many": (_rename(f"{Q_PROJ}.input_scale", f"{Q_PROJ}.bias"), r"q_proj\.bias, which"),
    "not quantized": (_rewrite_header(f"{Q_PROJ}.weight", _as_bf16), r"q_proj\.weight is BF16"),
    "other width": (_set(intermediate_size=176), r"gate_proj\.weight is U8 .*calls for U8"),
    "width not of blocks": (
        _set(intermediate_size=168),
        "intermediate_size is 168, .*multiple of 16",
    ),
    "fp8": (_quantization(quant_algo="FP8"), "quant_algo is 'FP8' .*but must be 'NVFP4'"),
    "group of 32": (_quantization(group_size=32), "group_size 32"),
    "unquantized": (
        unquantize,
        r"config\.json: quantization_config\.quant_algo is null with",
    ),
    "other family": (_set(model_type="qwen2"), "model_type is 'qwen2', but must be 'llama'"),
    "biases": (_set(attention_bias=True), "attention_bias is true, but must be false"),
    "yarn": (_set(rope_scaling={"rope_type": "yarn"}), "rope_type is 'yarn'"),
    "no layers": (
        _set(num_hidden_layers=0),
        "num_hidden_layers is 0, but must be a",
    ),
    "end id outside": (
        _set(eos_token_id=[512]),
        r"eos_token_id is \[512\], but must be .* 512,",
    ),
    "no config": (_remove("config.json"), r"config\.json does not exist"),
    "broken config": (
        lambda folder: (folder / "config.json").write_text("{"),
        r"config\.json is not valid JSON",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(checkpoint: Path, name: str) -> None:
    break_it, expected = BAD[name]
    break_it(checkpoint)
    with pytest.raises(BuildError, match=expected) as error:
        open_checkpoint(checkpoint)
    assert "\n" not in str(error.value)


def test_a_tensor_that_the_index_omits_is_loaded(checkpoint: Path) -> None:
    _unplaced(f"{Q_PROJ}.input_scale")(checkpoint)
    assert f"{Q_PROJ}.input_scale" in open_checkpoint(checkpoint).tensors


def test_quantization_config_in_config_json_is_enough(checkpoint: Path) -> None:
    (checkpoint / "hf_quant_config.json").unlink()
    groups = {"group_0": {"weights": {"num_bits": 4, "group_size": 16}}}
    quantization = {"quant_algo": "NVFP4", "config_groups": groups}
    _set(quantization_config=quantization)(checkpoint)
    assert open_checkpoint(checkpoint).config.num_hidden_layers == 2
