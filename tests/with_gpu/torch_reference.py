"""The independent truth on a GPU: `numpy_llama.ReferenceLlama` with torch in place of numpy.

Everything is computed in f32. Where the GPU's free memory holds the weights dequantized, they are
kept so (32 GB for 8B parameters; a token then costs a tenth); else each is dequantized anew for
each use, so that the model lies beside an engine. A test holds it against numpy's reference on the
demo checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference.numpy_llama import (
    BLOCK,
    E2M1,
    F32,
    head_dim,
    map_checkpoint,
    read_config,
    rope_frequencies,
)

SPARE_BYTES = 4 * 2**30  # for what is computed, the engine's included


class TorchReference:
    """A Llama decoder with its KV cache, of one sequence."""

    def __init__(self, directory: Path, device: str = "cuda") -> None:
        config = read_config(directory)
        self._device = device
        self._stored = {
            name: self._upload(stored.dtype, stored.shape, stored.data)
            for name, stored in map_checkpoint(directory).items()
        }
        self._codes = torch.from_numpy(E2M1).to(device)
        self._dequantized: dict[str, Any] | None = {} if self._has_room() else None
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._kv_heads = int(config["num_key_value_heads"])
        self._width = head_dim(config)
        self._epsilon = float(config["rms_norm_eps"])
        self._frequencies = torch.from_numpy(rope_frequencies(config)).to(device)
        tied = config.get("tie_word_embeddings", False)
        self._head = "model.embed_tokens" if tied else "lm_head"
        self.reset()

    def reset(self) -> None:
        """Forget the sequence: the next `forward` starts at position 0."""
        empty = torch.zeros((self._kv_heads, 0, self._width), device=self._device)
        self._cache = [(empty, empty)] * self._layers

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def forward(self, token_ids: Sequence[int]) -> F32:
        """Append tokens; returns their logits, f32 [len(token_ids), vocab]."""
        ids = torch.tensor(list(token_ids), device=self._device)
        hidden = self._stored["model.embed_tokens.weight"][ids].float()
        for layer in range(self._layers):
            name = f"model.layers.{layer}"
            normed = self._norm(hidden, f"{name}.input_layernorm")
            hidden = hidden + self._attention(layer, normed)
            normed = self._norm(hidden, f"{name}.post_attention_layernorm")
            gate = self._linear(normed, f"{name}.mlp.gate_proj")
            up = self._linear(normed, f"{name}.mlp.up_proj")
            gated = torch.nn.functional.silu(gate) * up
            hidden = hidden + self._linear(gated, f"{name}.mlp.down_proj")
        logits: F32 = self._linear(self._norm(hidden, "model.norm"), self._head).cpu().numpy()
        return logits

    def _upload(self, dtype: str, shape: tuple[int, ...], data: Any) -> Any:
        kinds = {
            "BF16": torch.bfloat16,
            "F8_E4M3": torch.float8_e4m3fn,
            "F32": torch.float32,
            "U8": torch.uint8,
        }
        flat = torch.from_numpy(np.array(data)).view(kinds[dtype])
        return flat.reshape(shape).to(self._device)

    def _has_room(self) -> bool:
        linear = [one for one in self._stored.values() if one.dim() == 2]
        values = sum(one.numel() * (2 if one.dtype == torch.uint8 else 1) for one in linear)
        free = torch.cuda.mem_get_info()[0] if self._device == "cuda" else 0
        return bool(free > 4 * values + SPARE_BYTES)

    def _weight(self, name: str) -> Any:
        """f32 [out, in] of a linear layer."""
        if self._dequantized is None:
            return self._dequantize(name)
        if name not in self._dequantized:
            self._dequantized[name] = self._dequantize(name)
        return self._dequantized[name]

    def _dequantize(self, name: str) -> Any:
        weight = self._stored[f"{name}.weight"]
        if weight.dtype != torch.uint8:
            return weight.float()
        scale = self._stored[f"{name}.weight_scale"].float()
        scale *= self._stored[f"{name}.weight_scale_2"]
        pairs = torch.stack([weight & 0xF, weight >> 4], dim=-1)  # the low nibble is the even one
        values = self._codes[pairs.int()].reshape(len(weight), -1, BLOCK) * scale[:, :, None]
        return values.reshape(len(weight), -1)

    def _linear(self, x: Any, name: str) -> Any:
        return x @ self._weight(name).T

    def _norm(self, x: Any, name: str) -> Any:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self._epsilon)
        return x * scale * self._stored[f"{name}.weight"].float()

    def _rotate(self, x: Any, positions: Any) -> Any:
        """x [heads, seq, width]; the halves of a head are the two parts of its pairs."""
        angles = positions[:, None] * self._frequencies
        cos, sin = angles.cos(), angles.sin()
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def _attention(self, layer: int, x: Any) -> Any:
        name = f"model.layers.{layer}.self_attn"
        query, key, value = (
            self._linear(x, f"{name}.{part}_proj").reshape(len(x), -1, self._width).transpose(0, 1)
            for part in "qkv"
        )
        old_key, old_value = self._cache[layer]
        past = old_key.shape[1]
        positions = torch.arange(past, past + len(x), device=self._device).float()
        key = torch.cat([old_key, self._rotate(key, positions)], dim=1)
        value = torch.cat([old_value, value], dim=1)
        self._cache[layer] = (key, value)
        group = self._heads // self._kv_heads  # query heads that share one key/value head
        keys, values = (part.repeat_interleave(group, dim=0) for part in (key, value))
        scores = self._rotate(query, positions) @ keys.transpose(1, 2) / self._width**0.5
        hidden_future = torch.arange(key.shape[1], device=self._device) > positions[:, None]
        scores = scores.masked_fill(hidden_future, float("-inf"))
        mixed = (scores.softmax(-1) @ values).transpose(0, 1).reshape(len(x), -1)
        return self._linear(mixed, f"{name}.o_proj")
