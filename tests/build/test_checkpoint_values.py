"""The complete layout and every value: what a fetched checkpoint must be before it is compiled."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.check import check_content, check_values, e4m3_values
from checkpoints.layout import check_names, complete_layout, layout_bytes
from checkpoints.llama_config import load_llama_config, parse_llama_config
from checkpoints.nvfp4 import open_checkpoint
from host.console import BuildError
from make_checkpoint import SHAPES
from quantization.source_model import open_source
from reference.numpy_llama import E4M3

from tests.support.checkpoint_edits import (
    Edit,
    rewrite_header,
    scalar,
    store,
    swap_scales,
    with_copy_of,
    without,
    zeros,
)
from tests.support.paths import DEMO_CHECKPOINT
from tests.support.small_engines import write_checkpoint

LAYER = "model.layers.1."
O_PROJ = f"{LAYER}self_attn.o_proj"
Q_PROJ = f"{LAYER}self_attn.q_proj"
CONSTANTS = {"model_type": "llama", "rms_norm_eps": 1e-5}


def check(folder: Path) -> list[str]:
    """Check the folder as fetch_checkpoint.py does; returns the warnings."""
    checkpoint = open_checkpoint(folder)
    read: list[int] = []
    warnings = check_values(checkpoint, read.append)
    scalars = sum(t.data.size for t in checkpoint.tensors.values() if t.dtype == "F32")
    assert sum(read) == checkpoint.data_bytes - scalars
    return warnings


@pytest.mark.parametrize("kv_scales", [True, False])
def test_8b_layout_has_the_published_figures(kv_scales: bool) -> None:
    """nvidia/Llama-3.1-8B-Instruct-FP4 has 1,027 tensors, with 64 scales of the KV cache."""
    config = parse_llama_config(Path(), {**CONSTANTS, **SHAPES["llama-3.1-8b"]}, {})
    layout = complete_layout(config, kv_scales)
    assert len(layout) == (1027 if kv_scales else 963)
    assert layout_bytes(layout) == 6_027_749_376 - (0 if kv_scales else 64 * 4)
    assert layout["model.layers.31.mlp.down_proj.weight"] == ("U8", (4096, 7168))
    assert layout["model.layers.31.self_attn.k_proj.weight_scale"] == ("F8_E4M3", (1024, 256))


def test_e4m3_values_equal_the_reference() -> None:
    np.testing.assert_array_equal(e4m3_values(), E4M3[:0x7F])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


def test_random_and_real_checkpoints_pass(checkpoint: Path) -> None:
    assert check(checkpoint) == []
    assert check(DEMO_CHECKPOINT) == []


def test_tied_head_may_be_stored_or_not(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tied", tie_word_embeddings=True)
    assert check(folder) == []
    assert open_checkpoint(folder).notes == ()
    tensors = open_checkpoint(folder).tensors
    (folder / "model.safetensors").write_bytes(
        with_copy_of(tensors, "model.embed_tokens.weight", "lm_head.weight")
    )
    assert check(folder) == []
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.notes, checkpoint.config.tie_word_embeddings) == ((), True)


def test_a_stored_head_is_used_though_the_config_says_tied(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "stored")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    checkpoint = open_checkpoint(folder)
    assert not checkpoint.config.tie_word_embeddings
    (note,) = checkpoint.notes
    assert re.match(r"warning: .*config\.json says tie_word_embeddings true, but lm_head\.w", note)


def test_a_tied_matrix_may_be_stored_under_the_heads_name(tmp_path: Path) -> None:
    """As safetensors' save_model does, which keeps the first name of a shared tensor."""
    folder = write_checkpoint(tmp_path / "tied", tie_word_embeddings=True)
    before = open_checkpoint(folder).tensors["model.embed_tokens.weight"].data.tobytes()
    name = "model.embed_tokens.weight"
    rewrite_header(folder, lambda header: header.update({"lm_head.weight": header.pop(name)}))
    checkpoint = open_checkpoint(folder)
    indexed = {*checkpoint.tensors, "lm_head.weight"} - {name}
    check_names(folder, load_llama_config(folder), indexed)
    assert checkpoint.tensors[name].data.tobytes() == before
    assert "lm_head.weight" not in checkpoint.tensors


def test_scalars_of_shape_1_are_accepted(checkpoint: Path) -> None:
    def reshape(header: dict[str, Any]) -> None:
        header[f"{O_PROJ}.input_scale"]["shape"] = [1]

    rewrite_header(checkpoint, reshape)
    assert check(checkpoint) == []


GPU_ONLY: dict[str, tuple[Edit, str]] = {
    "no input_scale": (
        without(".input_scale"),
        r"14 linears have no input_scale, the first is model\.layers\.0\.mlp\.down_proj\.input",
    ),
    "one input_scale missing": (
        without(f"{O_PROJ}.input_scale"),
        r"1 linears have no input_scale, the first is .*1\.self_attn\.o_proj\.input_scale",
    ),
    "KV scales of one layer": (
        without("1.self_attn.k_proj.k_scale", "1.self_attn.v_proj.v_scale"),
        r"1\.self_attn\.k_proj\.k_scale is missing, but other layers have a scale of the KV cache",
    ),
    "KV scales of the keys alone": (
        without("v_scale"),
        r"0\.self_attn\.v_proj\.v_scale is missing, but other layers have a scale",
    ),
    "input_scale is infinite": (
        scalar(np.inf, f"{O_PROJ}.input_scale"),
        r"o_proj\.input_scale is inf, but must be one finite F32 number above 0",
    ),
    "k_scale is 0": (
        scalar(0, f"{LAYER}self_attn.k_proj.k_scale"),
        r"k_proj\.k_scale is 0\.0, but must be one finite F32 number above 0",
    ),
    "v_scale is negative": (
        scalar(-1, f"{LAYER}self_attn.v_proj.v_scale"),
        r"v_proj\.v_scale is -1\.0, but must be one finite F32 number above 0",
    ),
    "q has its own weight_scale_2": (
        scalar(1e-4, f"{Q_PROJ}.weight_scale_2"),
        r"k_proj\.weight_scale_2 is .*, but must be 0\.0001 as .*q_proj\.weight_scale_2 is: .*",
    ),
    "up has its own input_scale": (
        scalar(2e-3, f"{LAYER}mlp.up_proj.input_scale"),
        r"up_proj\.input_scale is 0\.002, but must be 0\.001 as .*gate_proj\.input_scale is",
    ),
}


def quantization(name: str, part: str, **values: object) -> Edit:
    def edit(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        document[part].update(values)
        (folder / name).write_text(json.dumps(document))

    return edit


GPU_ONLY |= {
    "a quantized layer is excluded": (
        quantization(
            "hf_quant_config.json", "quantization", exclude_modules=["lm_head", "model.layers.1*"]
        ),
        r"quantization\.exclude_modules has 'model\.layers\.1\*', but model\.layers\.1\.self",
    ),
    "a quantized linear is ignored": (
        quantization("config.json", "quantization_config", ignore=[O_PROJ]),
        r"config\.json: quantization_config\.ignore has '.*o_proj', but .*o_proj is quantized",
    ),
}


@pytest.mark.parametrize("name", GPU_ONLY)
def test_what_only_gpus_need_is_refused_for_gpus_only(
    checkpoint: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files are as their maker wrote them: fetching them again would not help."""
    break_it, expected = GPU_ONLY[name]
    break_it(checkpoint)
    assert check(checkpoint) == []
    remedy = "quantize the BF16 model with build/quantize.py, or use the openvino runtime"
    with pytest.raises(BuildError, match=rf"{expected}.*; {remedy}") as error:
        check_content(checkpoint, for_gpu=True)
    assert "fetch" not in str(error.value)
    assert "\n" not in str(error.value)
    capsys.readouterr()
    check_content(checkpoint)
    assert re.search(rf"note: .*{expected}.*the openvino runtime can", capsys.readouterr()[0])


def test_a_tied_matrix_under_the_heads_name_is_refused_for_gpus_only(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tied", tie_word_embeddings=True)
    check_content(folder, for_gpu=True)
    name = "model.embed_tokens.weight"
    rewrite_header(folder, lambda header: header.update({"lm_head.weight": header.pop(name)}))
    check_content(folder)
    with pytest.raises(BuildError, match=r"tied embedding is only stored as lm_head\.weight; quan"):
        check_content(folder, for_gpu=True)


def test_a_tied_model_with_another_head_is_not_quantized(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "hf_quant_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    with pytest.raises(BuildError, match=r"tie_word_embeddings is true, but lm_head\.weight is st"):
        open_source(folder)


WRONG_EXPORT = "fetch it again if they differ, else quantize the BF16 model with build/quantize"
BAD: dict[str, tuple[Edit, str]] = {
    "one more scale": (
        lambda folder: rewrite_header(
            folder,
            lambda header: header.update(
                {f"{LAYER}mlp.k_scale": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}
            ),
        ),
        r"holds the tensor model\.layers\.1\.mlp\.k_scale, which is not part of a plain Lla",
    ),
    "a dtype of two lines": (
        lambda folder: rewrite_header(
            folder, lambda header: header["lm_head.weight"].update(dtype="BF\n16")
        ),
        r"has a damaged header \(.*lm_head\.weight has the dtype 'BF.*; fetch the checkpoint again",
    ),
    "a name of two lines": (
        lambda folder: rewrite_header(
            folder, lambda header: header.update({"lm\nhead": header.pop("lm_head.weight")})
        ),
        r"has a damaged header \(.*a tensor is called .*; fetch the checkpoint again",
    ),
    "no weight_scale_2": (
        without(f"{O_PROJ}.weight_scale_2"),
        r"lacks the tensor .*o_proj\.weight_scale_2, .*o_proj\.weight is not stored as Model Opt",
    ),
    "no head": (
        without("lm_head.weight"),
        r"lacks the tensor lm_head\.weight, .*; set tie_word_embeddings in config\.json to true if",
    ),
    "a quantized head": (
        lambda folder: rewrite_header(
            folder,
            lambda header: header["lm_head.weight"].update(dtype="U8", shape=[512, 128]),
        ),
        r"lm_head\.weight is U8 .*; it was quantized, which only the layers' linears may be: quant",
    ),
    "a model in half precision": (
        lambda folder: rewrite_header(
            folder, lambda header: header["model.norm.weight"].update(dtype="F16")
        ),
        r"model\.norm\.weight is F16 \[64\], .*; give a checkpoint whose model was saved in bf",
    ),
    "weight_scale_2 is NaN": (
        scalar(np.nan, f"{O_PROJ}.weight_scale_2"),
        rf"o_proj\.weight_scale_2 is nan, but must be one finite F32 number .*{WRONG_EXPORT}",
    ),
    "block scale is NaN": (
        store(f"{O_PROJ}.weight_scale", 5, b"\x7f"),
        r"o_proj\.weight_scale is NaN for 1 of 256 blocks, but must be 0 to 448; ",
    ),
    "block scale is the other NaN": (
        store(f"{O_PROJ}.weight_scale", 5, b"\xff\xff"),
        r"o_proj\.weight_scale is NaN for 2 of 256 blocks",
    ),
    "block scale is negative": (
        store(f"{O_PROJ}.weight_scale", 255, b"\x80"),
        r"o_proj\.weight_scale is negative for 1 of 256 blocks, but must be 0 to 448; ",
    ),
    "block scales were never written": (
        zeros(f"{O_PROJ}.weight_scale", 0.5, 0.75),
        r"o_proj\.weight_scale is 0 for 64 of 256 blocks, but must be for at most 1%; ",
    ),
    "codes were never written": (
        zeros(f"{O_PROJ}.weight", 0.25, 0.5),
        r"o_proj\.weight has 64 blocks of zeros with scales of other values, .*; comp",
    ),
    "neither was written": (
        lambda folder: (
            zeros(f"{O_PROJ}.weight", 0, 1)(folder),
            zeros(f"{O_PROJ}.weight_scale", 0, 1)(folder),
        ),
        r"o_proj\.weight_scale is 0 everywhere; compare",
    ),
    "embedding holds a NaN": (
        store("model.embed_tokens.weight", 1000, b"\xc0\xff"),
        r"model\.embed_tokens\.weight holds a NaN or an infinity, .*; comp",
    ),
    "norm holds an infinity": (
        store("model.norm.weight", 126, b"\x80\x7f"),
        r"model\.norm\.weight holds a NaN or an infinity",
    ),
    "head was never written": (
        zeros("lm_head.weight", 0.5, 1),
        r"16384 of the 32768 values of lm_head\.weight are 0, .* at most 10%.*; comp",
    ),
    "scales swapped": (
        swap_scales,
        r"weight_scale_2 and input_scale look swapped in 14 of 14 linears \(.*: 0\.001 and 0\.0001",
    ),
    "weight_scale_2 inverted": (
        scalar(5000, f"{O_PROJ}.weight_scale_2"),
        r"o_proj\.weight_scale_2 is 5e\+03, which makes the .*swapped or inverted, and exp",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_one_sentence(checkpoint: Path, name: str) -> None:
    break_it, expected = BAD[name]
    break_it(checkpoint)
    with pytest.raises(BuildError, match=expected) as error:
        check(checkpoint)
    assert "\n" not in str(error.value)


GOOD: dict[str, Edit] = {
    "no KV scales": without("k_scale", "v_scale"),
    # Model Optimizer 0.35 clamps them to 1.0 from below, 0.47 writes amax / 448.
    "KV scales of amax / 448": scalar(0.015, f"{LAYER}self_attn.k_proj.k_scale"),
    "KV scales above 1": scalar(2.5, f"{LAYER}self_attn.k_proj.k_scale"),
    "rows of zeros, whose scale is 1": lambda folder: (
        store(f"{O_PROJ}.weight", 80, bytes(8 * 100))(folder),
        store(f"{O_PROJ}.weight_scale", 10, b"\x38" * 100)(folder),
    ),
    "rows of zeros, some of them negative": lambda folder: (
        store(f"{O_PROJ}.weight", 80, b"\x80\x08" * 4 * 100)(folder),
        store(f"{O_PROJ}.weight_scale", 10, bytes(100))(folder),
    ),
    "a scale that underflowed": store(f"{O_PROJ}.weight_scale", 7, b"\x00"),
    "an embedding row that was never trained": store("model.embed_tokens.weight", 0, bytes(128)),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_model_optimizer_may_write_is_accepted(checkpoint: Path, name: str) -> None:
    GOOD[name](checkpoint)
    assert check(checkpoint) == []


def test_swapped_scales_of_a_trained_model_are_detected(tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO_CHECKPOINT, tmp_path / "demo")
    swap_scales(folder)
    with pytest.raises(BuildError, match="look swapped in 42 of 42 linears"):
        check(folder)


def test_one_odd_linear_is_a_warning(checkpoint: Path) -> None:
    swap_scales(checkpoint, only=O_PROJ)
    (warning,) = check(checkpoint)
    expected = rf"warning: .*look swapped in 1 of 14 linears \({re.escape(O_PROJ)}: 0\.001 and"
    assert re.match(expected, warning)


def test_a_small_chunk_size_changes_nothing(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("checkpoints.check.CHUNK_BYTES", 64)
    assert check(checkpoint) == []
    zeros("lm_head.weight", 0.25, 0.5)(checkpoint)
    with pytest.raises(BuildError, match="8192 of the 32768 values"):
        check(checkpoint)
    zeros(f"{O_PROJ}.weight", 0.25, 0.5)(checkpoint)
    with pytest.raises(BuildError, match="64 blocks of zeros"):
        check(checkpoint)
