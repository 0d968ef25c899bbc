"""nvidia-modelopt at work: load the BF16 model, calibrate it, export the NVFP4 layout.

The recipe of nvidia/Llama-3.1-8B-Instruct-FP4: NVFP4 weights and activations in blocks of 16, max
calibration, an FP8 KV cache. Runs on the CPU and on a GPU.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from checkpoints.layout import linear_shapes
from host.console import BuildError, Phase, say
from modelopt.torch.export import export_hf_checkpoint
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from transformers import AutoModelForCausalLM

from quantization.calibration_state import CalibrationState
from quantization.source_model import SourceModel
from quantization.transformers_llama import Llama, transformers_config

SHARD_BYTES = "5GB"  # as transformers cut when the published checkpoint was made


def load_model(source: SourceModel, device: torch.device) -> Llama:
    """The model in bfloat16; raises `BuildError` for a tensor with values of no trained model."""
    with Phase(f"loading {source.directory}, {source.data_bytes:,} bytes"):
        model: Any = AutoModelForCausalLM.from_pretrained(
            source.directory,
            config=transformers_config(source.directory, "bfloat16"),
            dtype=torch.bfloat16,
            device_map={"": str(device)},
        )
    for name, value in model.named_parameters():
        largest = float(value.detach().abs().max())
        if not 0 < largest < float("inf"):
            raise BuildError(
                f"{source.directory}: the largest value of {name} is {largest}, but must "
                "be a finite number above 0; compare the files' SHA-256 with those that the "
                "model's maker states"
            )
    return model


def calibrate(model: Llama, batches: list[list[int]], state: CalibrationState) -> Llama:
    """The quantized model, its scales from what the token ids of `batches` bring about.

    One text at a time: padding would be calibrated too.
    """

    def run_texts(calibrated: Any) -> None:
        done = state.restore(calibrated)
        if done:
            say(f"calibration goes on behind text {done} of {len(batches)}")
        with torch.no_grad(), Phase("calibration", len(batches), "text") as phase:
            phase.advance(done)
            for number, ids in enumerate(batches[done:], done + 1):
                # Without the head, which is not quantized.
                calibrated.model(torch.tensor([ids], device=model.device), use_cache=False)
                state.save(calibrated, number, last=number == len(batches))
                phase.advance(1)

    return mtq.quantize(model, quantization_recipe(), run_texts)


def quantization_recipe() -> dict[str, Any]:
    """modelopt's NVFP4_DEFAULT_CFG with its FP8 rules for the KV cache."""
    recipe: dict[str, Any] = copy.deepcopy(mtq.NVFP4_DEFAULT_CFG)
    recipe["quant_cfg"] += copy.deepcopy(
        [rule for rule in mtq.FP8_KV_CFG["quant_cfg"] if "bmm_quantizer" in str(rule)]
    )
    return recipe


def export(model: Llama, source: SourceModel, folder: Path) -> None:
    """Write the checkpoint into `folder`.

    The source's config.json is kept and `quantization_config` added to it: transformers 5 would
    export rope_theta and rope_scaling as rope_parameters, which older readers take for theta 10000
    and no scaling, without a word.
    """
    linears = source.config.num_hidden_layers * len(linear_shapes(source.config))
    with Phase("export", linears, "linear") as phase, _counted(phase), torch.inference_mode():
        export_hf_checkpoint(model, export_dir=str(folder), max_shard_size=SHARD_BYTES)
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    config = json.loads((source.directory / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = written["quantization_config"]
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in source.copied_files:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source.directory / name, folder / name)


@contextlib.contextmanager
def _counted(phase: Phase) -> Iterator[None]:
    """Advance `phase` with every linear that modelopt packs: on a CPU most of the export's time."""
    original = vars(NVFP4QTensor)["quantize"]

    def quantize(*arguments: Any, **options: Any) -> Any:
        packed = original.__get__(None, NVFP4QTensor)(*arguments, **options)
        phase.advance(1)
        return packed

    NVFP4QTensor.quantize = staticmethod(quantize)
    try:
        yield
    finally:
        NVFP4QTensor.quantize = original
