"""NVFP4's arithmetic in plain torch: weights from their packed bytes, activations rounded.

The definition, not a kernel. What a Blackwell GPU multiplies are these very values; it adds the
products up in another order.
"""

from __future__ import annotations

import torch
from checkpoints.layout import BLOCK
from torch.nn import functional

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


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
    # The distance of neighbours among 0, 0.5, ... 2, 3, 4, 6; `round` takes a tie to the even code.
    magnitude = ratio.abs()
    step = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0))
    return (torch.round(ratio / step) * step * scale).flatten(-2)


def round_inputs(layer: torch.nn.Module, input_scale: float) -> None:
    """From now on the layer's input is rounded as `quantize_activation` does."""

    def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (quantize_activation(inputs[0], input_scale),)

    layer.register_forward_pre_hook(hook)
