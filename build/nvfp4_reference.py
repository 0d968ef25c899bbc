"""The independent truth: an NVFP4 Llama checkpoint dequantized and run in plain numpy, f32.

Reads what nvidia-modelopt exports (and unquantized checkpoints too) with nothing but numpy: no
torch, no safetensors, no code shared with any engine. Slow and short on purpose. It knows no
text: token ids in, logits or token ids out. Weights only are dequantized; activations and the
KV cache stay f32, which is what the OpenVINO engine computes in its f32 mode.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
BLOCK = 16  # values along the input dimension that share one weight_scale


def _e4m3_table() -> F32:
    """The 256 values of float8_e4m3fn: bias 7, no infinities, 0x7f and 0xff are NaN."""
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent, mantissa = (codes >> 3) & 0xF, codes & 0x7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    values = sign * np.where(exponent == 0, mantissa / 8 * 2.0**-6, normal)
    values[[0x7F, 0xFF]] = np.nan
    table: F32 = values.astype(np.float32)
    return table


E4M3 = _e4m3_table()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory: everything f32, names as in the file without quantization parts."""

    config: dict[str, Any]  # config.json
    weights: dict[str, F32]  # "model....weight" -> dequantized values
    input_scales: dict[str, float]  # linear layer name -> amax / (6 * 448) of its input


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Tensors of one file: bf16 as f32, float8_e4m3fn as f32, others as stored.

    Raises ValueError for a dtype that no Llama checkpoint has.
    """
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    return {
        name: _decode(name, entry, data, start)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _decode(name: str, entry: dict[str, Any], data: bytes, start: int) -> NDArray[Any]:
    first, last = entry["data_offsets"]
    raw = data[start + first : start + last]
    values: NDArray[Any]
    if entry["dtype"] == "BF16":  # the upper half of an f32
        values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    elif entry["dtype"] == "F8_E4M3":
        values = E4M3[np.frombuffer(raw, np.uint8)]
    elif entry["dtype"] == "F32":
        values = np.frombuffer(raw, np.float32)
    elif entry["dtype"] == "U8":
        values = np.frombuffer(raw, np.uint8)
    else:
        raise ValueError(f"{name}: dtype {entry['dtype']} is not one of BF16, F8_E4M3, F32, U8")
    shaped: NDArray[Any] = values.reshape(entry["shape"])
    return shaped


def unpack_nibbles(packed: NDArray[np.uint8]) -> F32:
    """E2M1 codes [out, in/2] -> values [out, in]; the low nibble is the even column."""
    codes = np.stack([packed & 0xF, packed >> 4], axis=-1)
    values: F32 = E2M1[codes].reshape(packed.shape[0], -1)
    return values


def dequantize(packed: NDArray[np.uint8], scale: F32, scale_2: F32) -> F32:
    """uint8 [out, in/2], f32 [out, in/16], f32 [] -> f32 [out, in]: e2m1 * scale * scale_2."""
    values = unpack_nibbles(packed).reshape(packed.shape[0], -1, BLOCK)
    return (values * (scale * scale_2)[:, :, None]).reshape(packed.shape[0], -1)


def load_checkpoint(directory: str | Path) -> Checkpoint:
    """Read config.json and every *.safetensors; raises ValueError when there is none."""
    directory = Path(directory)
    tensors: dict[str, NDArray[Any]] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors.update(read_safetensors(path))
    if not tensors:
        raise ValueError(f"{directory} has no .safetensors file")
    weights: dict[str, F32] = {}
    for name, value in tensors.items():
        if name.endswith(".weight"):
            quantized = f"{name}_scale_2" in tensors
            weights[name] = (
                dequantize(value, tensors[f"{name}_scale"], tensors[f"{name}_scale_2"])
                if quantized
                else value
            )
    suffix = ".input_scale"
    input_scales = {
        name[: -len(suffix)]: float(value)
        for name, value in tensors.items()
        if name.endswith(suffix)
    }
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return Checkpoint(config, weights, input_scales)


def rope_frequencies(config: dict[str, Any]) -> F32:
    """[head_dim / 2] radians per position, from rope_theta + rope_scaling or rope_parameters.

    Raises ValueError for a rope type that is neither "default" nor "llama3".
    """
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(scaling.get("rope_theta", config.get("rope_theta", 10000.0)))
    width = head_dim(config)
    frequencies = theta ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return frequencies.astype(np.float32)
    if kind != "llama3":
        raise ValueError(f"rope_type {kind!r} is not one of default, llama3")
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    # Turns that a pair makes within the original context: many -> kept, few -> slowed down.
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    slowed = frequencies / scaling["factor"]
    blended: F32 = (keep * frequencies + (1 - keep) * slowed).astype(np.float32)
    return blended


def head_dim(config: dict[str, Any]) -> int:
    """Width of one attention head; older configs leave it out."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def softmax(values: F32) -> F32:
    """Over the last axis, shifted by its maximum."""
    exponents: F32 = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: F32 = exponents / exponents.sum(axis=-1, keepdims=True)
    return shares


class ReferenceLlama:
    """A Llama decoder with its KV cache; one sequence at a time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        config = checkpoint.config
        self._weights = checkpoint.weights
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._kv_heads = int(config["num_key_value_heads"])
        self._width = head_dim(config)
        self._epsilon = np.float32(config["rms_norm_eps"])
        self._frequencies = rope_frequencies(config)
        tied = config.get("tie_word_embeddings", False)
        self._head = "model.embed_tokens.weight" if tied else "lm_head.weight"
        self.reset()

    def reset(self) -> None:
        """Forget the sequence: the next `forward` starts at position 0."""
        empty = np.zeros((self._kv_heads, 0, self._width), np.float32)
        self._cache = [(empty, empty) for _ in range(self._layers)]

    def forward(self, token_ids: Sequence[int]) -> F32:
        """Append tokens to the sequence; returns their logits, f32 [len(token_ids), vocab]."""
        past = self._cache[0][0].shape[1]
        positions = np.arange(past, past + len(token_ids), dtype=np.float32)
        hidden = self._weights["model.embed_tokens.weight"][np.asarray(token_ids, np.int64)]
        for layer in range(self._layers):
            name = f"model.layers.{layer}"
            normed = self._norm(hidden, f"{name}.input_layernorm")
            hidden = hidden + self._attention(layer, normed, positions)
            normed = self._norm(hidden, f"{name}.post_attention_layernorm")
            gate = self._linear(normed, f"{name}.mlp.gate_proj")
            up = self._linear(normed, f"{name}.mlp.up_proj")
            hidden = hidden + self._linear(gate / (1 + np.exp(-gate)) * up, f"{name}.mlp.down_proj")
        logits: F32 = self._norm(hidden, "model.norm") @ self._weights[self._head].T
        return logits

    def generate(
        self, prompt_ids: Sequence[int], max_new_tokens: int, eos_ids: Collection[int] = ()
    ) -> list[int]:
        """Greedy tokens after the prompt; the end token, where one came, is the last of them."""
        self.reset()
        fed, generated = list(prompt_ids), list[int]()
        while len(generated) < max_new_tokens:
            generated.append(int(self.forward(fed)[-1].argmax()))
            if generated[-1] in eos_ids:
                break
            fed = generated[-1:]
        return generated

    def _linear(self, x: F32, name: str) -> F32:
        product: F32 = x @ self._weights[f"{name}.weight"].T
        return product

    def _norm(self, x: F32, name: str) -> F32:
        scale = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self._epsilon)
        normed: F32 = x * scale * self._weights[f"{name}.weight"]
        return normed

    def _rotate(self, x: F32, positions: F32) -> F32:
        """x [heads, seq, width]; the halves of a head are the two parts of its pairs."""
        angles = positions[:, None] * self._frequencies
        cos, sin = np.cos(angles), np.sin(angles)
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def _attention(self, layer: int, x: F32, positions: F32) -> F32:
        """Causal attention over the cache and x [seq, hidden]; returns [seq, hidden]."""
        name, seq = f"model.layers.{layer}.self_attn", len(x)

        def split(part: str, heads: int) -> F32:
            values: F32 = self._linear(x, f"{name}.{part}_proj").reshape(seq, heads, self._width)
            by_head: F32 = values.transpose(1, 0, 2)
            return by_head

        query = self._rotate(split("q", self._heads), positions)
        old_key, old_value = self._cache[layer]
        key = np.concatenate([old_key, self._rotate(split("k", self._kv_heads), positions)], axis=1)
        value = np.concatenate([old_value, split("v", self._kv_heads)], axis=1)
        self._cache[layer] = (key, value)
        group = self._heads // self._kv_heads  # query heads that share one key/value head
        key, value = np.repeat(key, group, axis=0), np.repeat(value, group, axis=0)
        scores = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(self._width))
        hidden_future = np.arange(key.shape[1]) > positions[:, None]
        scores = np.where(hidden_future, np.float32(-np.inf), scores)
        mixed = (softmax(scores) @ value).transpose(1, 0, 2).reshape(seq, -1)
        return self._linear(mixed, f"{name}.o_proj")
