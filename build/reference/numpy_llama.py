"""The independent truth: an NVFP4 Llama checkpoint dequantized and run in plain numpy, f32.

Reads what nvidia-modelopt exports (and unquantized checkpoints too) with numpy alone: no
torch, no safetensors, no code shared with any engine. It is short rather than fast. It takes
token ids and gives logits or token ids, no text. Only weights are dequantized; activations and the
KV cache stay f32, as in the OpenVINO engine's f32 mode. `streamed.py` reads checkpoints piece by
piece that do not fit in memory in f32.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
BLOCK = 16  # values along the input dimension that share one weight_scale
_BYTES = np.arange(256)
# The two values of every byte, the low nibble first, as 8 bytes: one look-up for both.
E2M1_PAIRS = np.stack([E2M1[_BYTES & 0xF], E2M1[_BYTES >> 4]], axis=-1).view(np.uint64).reshape(-1)


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
    """A checkpoint in memory: everything in f32, with the file's names of the weights."""

    config: dict[str, Any]  # config.json
    weights: dict[str, F32]  # "model....weight" -> dequantized values
    input_scales: dict[str, float]  # linear layer name -> amax / (6 * 448) of its input


@dataclass(frozen=True)
class Stored:
    """One tensor as it lies in a mapped file."""

    name: str
    dtype: str  # as in the safetensors header
    shape: tuple[int, ...]
    data: NDArray[np.uint8]  # its bytes, of the mapped pages

    def rows(self, which: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Decoded rows of the first dimension: bf16 and float8_e4m3fn as f32, others as stored."""
        return _decode(self.name, self.dtype, self.data.reshape(self.shape[0], -1)[which])

    def values(self) -> NDArray[Any]:
        """The whole tensor, decoded in the same way."""
        return _decode(self.name, self.dtype, self.data).reshape(self.shape)


def map_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors of one file by name, mapped."""
    with path.open("rb") as file:
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    tensors: dict[str, Stored] = {}
    for name, entry in json.loads(data[8:start].tobytes()).items():
        if name != "__metadata__":
            begin, end = (start + offset for offset in entry["data_offsets"])
            tensors[name] = Stored(name, entry["dtype"], tuple(entry["shape"]), data[begin:end])
    return tensors


def map_checkpoint(directory: Path) -> dict[str, Stored]:
    """The tensors of every *.safetensors; raises ValueError when there is none."""
    tensors: dict[str, Stored] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors.update(map_safetensors(path))
    if not tensors:
        raise ValueError(f"{directory} has no .safetensors file")
    return tensors


def _decode(name: str, dtype: str, raw: NDArray[np.uint8]) -> NDArray[Any]:
    """Bytes [..., n * width of dtype] -> values [..., n]; raises ValueError for other dtypes."""
    values: NDArray[Any]
    if dtype == "BF16":  # the upper half of an f32
        values = raw.view(np.uint16).astype(np.uint32)
        values <<= 16
        values = values.view(np.float32)
    elif dtype == "F8_E4M3":
        values = np.take(E4M3, raw)
    elif dtype == "F32":
        values = raw.view(np.float32)
    elif dtype == "U8":
        values = raw
    else:
        raise ValueError(f"{name}: dtype {dtype} is not one of BF16, F8_E4M3, F32, U8")
    return values


def unpack_nibbles(packed: NDArray[np.uint8]) -> F32:
    """E2M1 codes [out, in/2] -> values [out, in]; the low nibble is the even column."""
    values: F32 = np.take(E2M1_PAIRS, packed).view(np.float32)
    return values


def dequantize(packed: NDArray[np.uint8], scale: F32, scale_2: F32) -> F32:
    """uint8 [out, in/2], f32 [out, in/16], f32 [] -> f32 [out, in]: e2m1 * scale * scale_2."""
    values = unpack_nibbles(packed).reshape(packed.shape[0], -1, BLOCK)
    values *= (scale * scale_2)[:, :, None]
    return values.reshape(packed.shape[0], -1)


def load_checkpoint(directory: str | Path) -> Checkpoint:
    """Read config.json and every *.safetensors; raises ValueError when there is none."""
    directory = Path(directory)
    tensors = {name: stored.values() for name, stored in map_checkpoint(directory).items()}
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
    return Checkpoint(read_config(directory), weights, input_scales)


def read_config(directory: Path) -> dict[str, Any]:
    """The checkpoint's config.json."""
    return dict(json.loads((directory / "config.json").read_text(encoding="utf-8")))


def rope_frequencies(config: dict[str, Any]) -> F32:
    """[head_dim / 2] radians per position, the keys merged as transformers 5 does.

    Raises ValueError for a rope type that is neither "default" nor "llama3".
    """
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    theta = float(scaling.get("rope_theta", config.get("rope_theta", 10000.0)))
    width = head_dim(config)
    frequencies = theta ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return frequencies.astype(np.float32)
    if kind != "llama3":
        raise ValueError(f"rope_type {kind!r} is not one of default, llama3")
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    # Turns of a pair within the original context: fast pairs are kept, slow ones slowed down.
    longest = config["max_position_embeddings"]
    original = scaling.get("original_max_position_embeddings", longest)
    turns = original * frequencies / (2 * np.pi)
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    slowed = frequencies / scaling["factor"]
    blended: F32 = (keep * frequencies + (1 - keep) * slowed).astype(np.float32)
    return blended


def head_dim(config: dict[str, Any]) -> int:
    """Width of one attention head; older configs leave it out."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def softmax(values: F32) -> F32:
    """Softmax over the last axis, shifted by its maximum."""
    exponents: F32 = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: F32 = exponents / exponents.sum(axis=-1, keepdims=True)
    return shares


class ReferenceLlama:
    """A Llama decoder with its KV cache, for one sequence or several at a time."""

    def __init__(self, checkpoint: Checkpoint, sequences: int = 1) -> None:
        self._weights = checkpoint.weights
        self._configure(checkpoint.config, sequences, checkpoint.weights)

    def _configure(self, config: dict[str, Any], sequences: int, stored: Collection[str]) -> None:
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._kv_heads = int(config["num_key_value_heads"])
        self._width = head_dim(config)
        self._epsilon = np.float32(config["rms_norm_eps"])
        self._frequencies = rope_frequencies(config)
        # Tied weights are one matrix, under either name. A head that is stored beside the embedding
        # is used, whatever the config says, as in transformers 5.
        tied = config.get("tie_word_embeddings", False)
        names = ("model.embed_tokens", "lm_head")
        self._embedding, self._head = names
        if tied and "lm_head.weight" not in stored:
            self._head = self._embedding
        elif tied and "model.embed_tokens.weight" not in stored:
            self._embedding = self._head
        self._sequences = sequences
        self.reset()

    def reset(self) -> None:
        """Forget the sequences: the next `forward` starts at position 0."""
        empty = np.zeros((self._kv_heads, 0, self._width), np.float32)
        self._cache = [[(empty, empty)] * self._sequences for _ in range(self._layers)]

    def forward(self, token_ids: Sequence[int]) -> F32:
        """Append tokens to the one sequence; returns their logits, f32 [len(token_ids), vocab]."""
        return self.logits(self.hidden_states([token_ids])[0])

    def hidden_states(self, token_ids: Sequence[Sequence[int]]) -> list[F32]:
        """Append tokens, perhaps none, to each sequence; returns f32 [tokens, hidden] of each."""
        ends = np.cumsum([len(ids) for ids in token_ids])[:-1]
        ids = np.concatenate([np.asarray(ids, np.int64) for ids in token_ids])
        hidden = self._rows(self._embedding, ids)
        for layer in range(self._layers):
            name = f"model.layers.{layer}"
            normed = self._norm(hidden, f"{name}.input_layernorm")
            hidden = hidden + self._attention(layer, normed, ends)
            normed = self._norm(hidden, f"{name}.post_attention_layernorm")
            gate = self._linear(normed, f"{name}.mlp.gate_proj")
            up = self._linear(normed, f"{name}.mlp.up_proj")
            hidden = hidden + self._linear(gate / (1 + np.exp(-gate)) * up, f"{name}.mlp.down_proj")
        return np.split(self._norm(hidden, "model.norm"), ends)

    def logits(self, hidden: F32) -> F32:
        """f32 [tokens, hidden] of `hidden_states` -> f32 [tokens, vocab]."""
        return self._linear(hidden, self._head)

    def generate(
        self, prompt_ids: Sequence[int], max_new_tokens: int, eos_ids: Collection[int] = ()
    ) -> list[int]:
        """Greedy tokens after the prompt; if an end token comes, it is the last one."""
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

    def _rows(self, name: str, ids: NDArray[np.int64]) -> F32:
        return self._weights[f"{name}.weight"][ids]

    def _norm(self, x: F32, name: str) -> F32:
        scale = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self._epsilon)
        normed: F32 = x * scale * self._vector(name)
        return normed

    def _vector(self, name: str) -> F32:
        return self._weights[f"{name}.weight"]

    def _rotate(self, x: F32, positions: F32) -> F32:
        """x [heads, seq, width]; the halves of a head are the two parts of its pairs."""
        angles = positions[:, None] * self._frequencies
        cos, sin = np.cos(angles), np.sin(angles)
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def _attention(self, layer: int, x: F32, ends: NDArray[np.int64]) -> F32:
        """Causal attention of each sequence over its cache and its rows of x [rows, hidden]."""
        name = f"model.layers.{layer}.self_attn"
        projected = [self._linear(x, f"{name}.{part}_proj") for part in "qkv"]
        of_each = zip(*(np.split(values, ends) for values in projected), strict=True)
        mixed = [self._mix(layer, index, *values) for index, values in enumerate(of_each)]
        return self._linear(np.concatenate(mixed), f"{name}.o_proj")

    def _mix(self, layer: int, sequence: int, query: F32, key: F32, value: F32) -> F32:
        """Append key and value [seq, heads * width] to the sequence's cache and attend to it."""

        def split(values: F32) -> F32:
            by_head: F32 = values.reshape(len(values), -1, self._width).transpose(1, 0, 2)
            return by_head

        if not len(query):  # a sequence that takes no part in this pass
            return query
        old_key, old_value = self._cache[layer][sequence]
        past, seq = old_key.shape[1], len(query)
        positions = np.arange(past, past + seq, dtype=np.float32)
        query = self._rotate(split(query), positions)
        key = np.concatenate([old_key, self._rotate(split(key), positions)], axis=1)
        value = np.concatenate([old_value, split(value)], axis=1)
        self._cache[layer][sequence] = (key, value)
        group = self._heads // self._kv_heads  # query heads that share one key/value head
        key, value = np.repeat(key, group, axis=0), np.repeat(value, group, axis=0)
        scores = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(self._width))
        hidden_future = np.arange(key.shape[1]) > positions[:, None]
        scores = np.where(hidden_future, np.float32(-np.inf), scores)
        return (softmax(scores) @ value).transpose(1, 0, 2).reshape(seq, -1)
