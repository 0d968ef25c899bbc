"""A checkpoint's tensors read one by one with torch, BF16 or NVFP4: the bytes on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from checkpoints.safetensors_file import read_shards
from safetensors import safe_open

from quantization.nvfp4_torch import dequantize, round_inputs


class StoredWeights:
    """The tensors of a checkpoint's folder, whatever its shards."""

    def __init__(self, directory: Path, device: torch.device) -> None:
        self._device = device
        self._paths = {name: tensor.path for name, tensor in read_shards(directory).items()}
        self._files: dict[Path, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._paths

    def tensor(self, name: str) -> torch.Tensor:
        """As stored, on the device."""
        path = self._paths[name]
        if path not in self._files:
            self._files[path] = safe_open(str(path), framework="pt")
        stored: torch.Tensor = self._files[path].get_tensor(name)
        return stored.to(self._device)

    def weight(self, name: str) -> torch.Tensor:
        """f32, dequantized where the checkpoint is quantized."""
        stored = self.tensor(name)
        if stored.dtype != torch.uint8:
            return stored.float()
        return dequantize(
            stored, self.tensor(f"{name}_scale"), self.tensor(f"{name}_scale_2").reshape(())
        )

    def round_inputs(self, module: torch.nn.Module, prefix: str = "") -> None:
        """The quantized linears in `module`, called `prefix` and more here, round their inputs."""
        for name, linear in module.named_modules():
            scale = f"{prefix}{name}.input_scale"
            if scale in self:
                round_inputs(linear, float(self.tensor(scale)))
