"""A calibration that was interrupted goes on: the largest values so far, in one small file.

Max calibration keeps one number a quantizer, and the largest of two parts is the largest of all:
a resumed run gives the very scales of one that was not interrupted.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

SAVE_INTERVAL_S = 10.0


class CalibrationState:
    """The file `path`, which belongs to one set of inputs (`key`)."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key
        self._saved = time.monotonic()

    def restore(self, model: torch.nn.Module) -> int:
        """Give the quantizers what an earlier run saw; returns how many texts that were."""
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
        """Write it whole, once in some seconds and after the last text."""
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
