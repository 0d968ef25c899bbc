"""A BF16 or NVFP4 checkpoint in torch: its tensors, NVFP4's arithmetic, transformers' model of it.

The arithmetic is the definition, not a kernel: a Blackwell GPU multiplies these very values and
adds the products in another order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import torch
from checkpoints.layout import BLOCK
from checkpoints.llama_config import load_llama_config, plain_rope
from checkpoints.safetensors_file import read_shards
from host.json_document import read_json
from safetensors import safe_open
from torch.nn import functional
from transformers import LlamaConfig
from transformers.utils import logging as transformers_logging

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
Llama: TypeAlias = Any  # transformers' LlamaForCausalLM, whose own types are not strict


class StoredWeights:
    """The tensors of a checkpoint's folder, whatever its shards."""

    def __init__(self, directory: Path, device: torch.device) -> None:
        self._device = device
        self._paths = {name: tensor.path for name, tensor in read_shards(directory).items()}
        self._files: dict[Path, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._paths

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor as it is stored, on the device."""
        path = self._paths[name]
        if path not in self._files:
            self._files[path] = safe_open(str(path), framework="pt")
        stored: torch.Tensor = self._files[path].get_tensor(name)
        return stored.to(self._device)

    def weight(self, name: str) -> torch.Tensor:
        """A weight [out, in] in f32, dequantized if it is stored as NVFP4."""
        stored = self.tensor(name)
        if stored.dtype != torch.uint8:
            return stored.float()
        return dequantize(
            stored, self.tensor(f"{name}_scale"), self.tensor(f"{name}_scale_2").reshape(())
        )

    def round_inputs(self, module: torch.nn.Module, prefix: str = "") -> None:
        """Let the quantized linears in `module`, whose name is `prefix`, round their inputs."""
        for name, linear in module.named_modules():
            scale = f"{prefix}{name}.input_scale"
            if scale in self:
                round_inputs(linear, float(self.tensor(scale)))


def dequantize(packed: torch.Tensor, scale: torch.Tensor, scale_2: torch.Tensor) -> torch.Tensor:
    """uint8 [out, in/2], e4m3 [out, in/16], f32 [] -> f32 [out, in]; low nibble first."""
    values = torch.tensor([*E2M1, *(-value for value in E2M1)], device=packed.device)
    pairs = torch.stack([values.repeat(16), values.repeat_interleave(16)], dim=1)  # of each byte
    blocks = functional.embedding(packed.int(), pairs).reshape(len(packed), -1, BLOCK)
    return (blocks * (scale.float() * scale_2)[..., None]).flatten(-2)


def quantize_activation(x: torch.Tensor, input_scale: float) -> torch.Tensor:
    """Round x [..., in] as an NVFP4 GEMM does: e2m1 values in blocks of 16 with e4m3 scales."""
    blocks = x.reshape(*x.shape[:-1], -1, BLOCK)
    scale = blocks.abs().amax(-1, keepdim=True) / (6.0 * input_scale)
    scale = scale.clamp(2.0**-9, 448.0).to(torch.float8_e4m3fn).float() * input_scale
    ratio = (blocks / scale).clamp(-6.0, 6.0)
    # The step between neighbours of 0, 0.5, ... 2, 3, 4, 6; `round` takes a tie to the even code.
    magnitude = ratio.abs()
    step = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0))
    return (torch.round(ratio / step) * step * scale).flatten(-2)


def round_inputs(layer: torch.nn.Module, input_scale: float) -> None:
    """Let the layer round its input as `quantize_activation` does."""

    def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (quantize_activation(inputs[0], input_scale),)

    layer.register_forward_pre_hook(hook)


def transformers_config(directory: Path, dtype: str) -> Any:
    """transformers' `LlamaConfig` of the folder without quantization.

    transformers 4 ignores `rope_parameters`, which transformers 5 writes, and would compute with
    theta 10000 and no scaling. Both versions read `rope_theta` and `rope_scaling`.
    """
    facts = load_llama_config(directory)
    values = read_json(directory / "config.json")
    for key in ("quantization_config", "rope_parameters", "torch_dtype", "dtype"):
        values.pop(key, None)
    values |= plain_rope(facts)
    factory: Any = LlamaConfig
    return factory(**values, torch_dtype=dtype)


def quiet() -> None:
    """Turn off transformers' bars and advice: the build shows its own progress."""
    logging: Any = transformers_logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
