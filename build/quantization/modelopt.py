"""Quantization with nvidia-modelopt: load the BF16 model, calibrate it, export the NVFP4 layout.

The recipe of nvidia/Llama-3.1-8B-Instruct-FP4: NVFP4 weights and activations in blocks of 16, max
calibration, an FP8 KV cache. Runs on the CPU and on a GPU.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from checkpoints.layout import linear_shapes
from host.console import BuildError, Phase, say
from modelopt.torch.export import export_hf_checkpoint
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from quantization.source_model import SourceModel
from quantization.torch_checkpoint import Llama, transformers_config

SAVE_INTERVAL_S = 10.0  # of an unfinished calibration
SHARD_BYTES = "5GB"  # as transformers cut when the published checkpoint was made


def load_model(source: SourceModel, device: torch.device) -> Llama:
    """The model in bfloat16; raises `BuildError` for a tensor that is all zero or not finite."""
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
                f"{source.directory}: the largest value of {name} must be a finite number above 0, "
                f"not {largest}; compare the files' SHA-256 with those that the "
                "model's maker states"
            )
    return model


def calibrate(model: Llama, batches: list[list[int]], state: CalibrationState) -> Llama:
    """Quantize the model, with scales from running the token ids of `batches`.

    One text at a time: padding would be calibrated too.
    """

    def run_texts(calibrated: Any) -> None:
        done = state.restore(calibrated)
        if done:
            say(f"calibration goes on after text {done} of {len(batches)}")
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
    export rope_theta and rope_scaling as rope_parameters, which older readers silently take for
    theta 10000 and no scaling.
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
    """Advance `phase` with every linear that modelopt packs: most of the export's time on a CPU."""
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


class CalibrationState:
    """An unfinished calibration in the file `path`; `key` identifies its inputs.

    Max calibration keeps one number a quantizer, and the largest of two parts is the largest of
    all: a resumed run gives exactly the scales of one that was not interrupted.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key
        self._saved = time.monotonic()

    def restore(self, model: torch.nn.Module) -> int:
        """Give the quantizers what an earlier run saw; returns the number of its texts."""
        try:
            with safe_open(str(self._path), framework="pt") as file:
                facts = json.loads(file.metadata()["calibration"])
                amax = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return 0
        calibrators = _calibrators(model)
        if facts.get("key") != self._key or not amax.keys() <= calibrators.keys():
            return 0
        for name, value in amax.items():
            calibrators[name]._calib_amax = value.to(_device(model))
        return int(facts["done"])

    def save(self, model: torch.nn.Module, done: int, last: bool) -> None:
        """Write the file whole, every SAVE_INTERVAL_S and after the last text."""
        if not last and time.monotonic() - self._saved < SAVE_INTERVAL_S:
            return
        values = {name: each.compute_amax() for name, each in _calibrators(model).items()}
        tensors = {name: value.cpu() for name, value in values.items() if value is not None}
        aside = self._path.with_name(self._path.name + ".partial")
        facts = json.dumps({"key": self._key, "done": done})
        save_file(tensors, str(aside), metadata={"calibration": facts})
        aside.replace(self._path)
        self._saved = time.monotonic()


def _calibrators(model: torch.nn.Module) -> dict[str, Any]:
    from modelopt.torch.quantization.nn import TensorQuantizer

    return {
        name: module._calibrator
        for name, module in model.named_modules()
        if isinstance(module, TensorQuantizer) and module._if_calib and module._calibrator
    }


def _device(model: torch.nn.Module) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device
