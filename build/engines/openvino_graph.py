"""A Llama 3.x forward pass as an OpenVINO graph over a checkpoint's own packed bytes; its files.

Inputs: `input_ids` i64 [B, S], `attention_mask` i64 [B, T], `position_ids` i64 [B, S], `beam_idx`
i32 [B]; output `logits` f32 [B, S, vocab + 1]; the last one is the alarm. The KV cache is
the model's state, in the form in which OpenVINO GenAI finds it and replaces it by paged attention.

Each linear's e2m1 and e4m3 constants are the checkpoint's mapped bytes: OpenVINO's nibble order is
Model Optimizer's. The CPU plugin computes on the 4-bit weights as long as the pattern
`Convert(e2m1) * Convert(e4m3) -> Reshape -> Convert -> MatMul` stands. `weight_scale_2` multiplies
the MatMul's result: exact, where folding it into the e4m3 scales would round or underflow.

The alarm shows the engine that a forward pass overflowed. Without it, OpenVINO GenAI (2026.4) picks
token 0 if all logits are NaN. It is one more token, with the id `vocab_size`:

    alarm logit = WEIGHT * hidden[0] - HEIGHT

The graph replaces every unsound row of hidden states (not finite, or too large) by `unsound_row`.
For that row the alarm's logit is HEIGHT, so high that the alarm is always chosen, with any
temperature, penalty, top_k or top_p. For a sound row it is at most -HEIGHT / 2: never chosen.
WEIGHT is in an additional row of the LM head and HEIGHT in its bias, so it costs no operation.

`openvino.serialize` writes both files in one call that can neither be interrupted nor report, and
says "iostream error" for a full disk. So it writes the XML alone here, and this module lays out and
writes the weights file from the mapped pages: every constant once, at a multiple of 64 bytes.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import openvino as ov
import openvino.opset13 as op
from checkpoints.layout import BLOCK, linear_shapes
from checkpoints.llama_config import LlamaConfig
from checkpoints.nvfp4 import EMBEDDING, HEAD, Checkpoint
from checkpoints.safetensors_file import Bytes
from host.console import BuildError, Phase

Node = Any  # ov.Node or ov.Output; OpenVINO's Python package has no usable type hints
ALL = -1  # "whatever is left" in a reshape
KEEP = 0  # "as in the input" in a reshape
ALIGNMENT = 64  # bytes; a cache line
CHUNK_BYTES = 16 * 2**20
ALARMS = 1  # additional rows of the LM head, and additional logits
# Powers of two are exact in BF16. The engine scales logits by at most 1e15: HEIGHT times that is
# finite in F32, and HEIGHT divided by that is still above every other logit.
HEIGHT = 2.0**76
LARGEST = 2.0**22  # the largest sum of a sound row's absolute values; real models have about 1e4
INSTEAD = 2.0**24  # the first value of the row that replaces an unsound one; the others are 0
WEIGHT = 2 * HEIGHT / INSTEAD


def write_openvino_model(checkpoint: Checkpoint, max_seq_len: int, folder: Path) -> None:
    """Write `openvino_model.xml` and `openvino_model.bin` into `folder`."""
    with Phase("building the graph"):
        checkpoint = with_alarm(checkpoint)
        model = build_graph(checkpoint, max_seq_len)
        xml = folder / "openvino_model.xml"
        ov.serialize(model, str(xml), "/dev/null")
        sources = dict(_constants(model, checkpoint))
        document = ElementTree.parse(xml)
        plan = _lay_out(document, sources)
        document.write(xml, encoding="utf-8", xml_declaration=True)
    total = sum(data.size for _, data in plan)
    phase = Phase(f"writing the weights, {total:,} bytes", total)
    with phase, (folder / "openvino_model.bin").open("wb") as file:
        for offset, data in plan:
            file.write(bytes(offset - file.tell()))
            _write(file, data, phase)


def build_graph(checkpoint: Checkpoint, max_seq_len: int) -> ov.Model:
    """The whole model of a checkpoint `with_alarm`, for positions below `max_seq_len`.

    Its large constants are views of the checkpoint's pages: keep `checkpoint` as long as the model.
    """
    return _GraphBuilder(checkpoint, max_seq_len).build()


def with_alarm(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the alarm's row at the end of its LM head (or of its tied embedding)."""
    name = EMBEDDING if checkpoint.config.tie_word_embeddings else HEAD
    head = checkpoint.tensors[name]
    rows, columns = head.shape
    data = np.concatenate([head.data, _alarm_row(columns)])
    tensors = {**checkpoint.tensors, name: replace(head, shape=(rows + ALARMS, columns), data=data)}
    return replace(checkpoint, tensors=tensors)


def alarm_bias(rows: int) -> npt.NDArray[np.float32]:
    """The bias of an LM head with the alarm: [rows]."""
    bias = np.zeros(rows, np.float32)
    bias[-1] = -HEIGHT
    return bias


def unsound_row(columns: int) -> npt.NDArray[np.float32]:
    """The hidden states that replace an unsound row: [columns]."""
    row = np.zeros(columns, np.float32)
    row[0] = INSTEAD
    return row


def _alarm_row(columns: int) -> Bytes:
    """The alarm's row of the LM head in BF16, which is the upper half of F32."""
    row = np.zeros(columns, np.float32)
    row[0] = WEIGHT
    return (row.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)


def rope_inverse_frequencies(config: LlamaConfig) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Radians per position, [head_dim / 2], with llama3 scaling as transformers does it."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequencies = config.rope_theta**-exponents
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    wavelengths = 2 * math.pi / frequencies
    original = scaling.original_max_position_embeddings
    smooth = original / wavelengths - scaling.low_freq_factor
    smooth = np.clip(smooth / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0)
    # smooth is 1 for short wavelengths (kept) and 0 for long ones (slowed by the whole factor).
    return frequencies * (smooth + (1 - smooth) / scaling.factor)


class _GraphBuilder:
    def __init__(self, checkpoint: Checkpoint, max_seq_len: int) -> None:
        self._checkpoint = checkpoint
        self._max_seq_len = max_seq_len
        self._config = checkpoint.config
        self._assigns: list[Node] = []

    def build(self) -> ov.Model:
        config = self._config
        self._declare_inputs()
        embedding = self._dense(EMBEDDING)
        hidden = op.gather(embedding, self._input_ids, _i64(0))
        self._prepare_positions()
        for layer in range(config.num_hidden_layers):
            hidden = self._decoder_layer(layer, hidden)
        hidden = self._rms_norm("model.norm.weight", hidden)
        head = embedding if config.tie_word_embeddings else self._dense(HEAD)
        logits = self._logits(hidden, head)
        logits.output(0).set_names({"logits"})
        return ov.Model([op.result(logits)], self._assigns, self._parameters, "llama_nvfp4")

    def _declare_inputs(self) -> None:
        self._input_ids = graph_input("input_ids", [-1, -1], ov.Type.i64)
        self._attention_mask = graph_input("attention_mask", [-1, -1], ov.Type.i64)
        self._position_ids = graph_input("position_ids", [-1, -1], ov.Type.i64)
        self._beam_idx = graph_input("beam_idx", [-1], ov.Type.i32)
        self._parameters = [
            self._input_ids,
            self._attention_mask,
            self._position_ids,
            self._beam_idx,
        ]
        batch = op.gather(op.shape_of(self._input_ids), _i64([0]), _i64(0))
        config = self._config
        sizes = _i64([config.num_key_value_heads, 0, config.head_dim])
        empty_shape = op.concat([batch, sizes], 0)
        self._empty_cache = op.broadcast(_f32(0.0), empty_shape)

    def _prepare_positions(self) -> None:
        """cos and sin [B, 1, S, head_dim], the additive mask [B, 1, S, T]: one for all layers."""
        # Tables, not arithmetic: a graph that computed the angles would compute them in bf16 where
        # that is the engine's precision, and bf16 cannot tell positions above 256 apart.
        frequencies = rope_inverse_frequencies(self._config).astype(np.float32)
        angles = np.outer(np.arange(self._max_seq_len, dtype=np.float32), frequencies)
        angles = np.concatenate([angles, angles], axis=1)
        self._cos, self._sin = (
            self._at_positions(np.cos(angles)),
            self._at_positions(np.sin(angles)),
        )
        total = op.squeeze(
            op.gather(op.shape_of(self._attention_mask), _i64([1]), _i64(0)), _i64(0)
        )
        columns = op.range(_i64(0), total, _i64(1), "i64")
        rows = op.unsqueeze(op.unsqueeze(self._position_ids, _i64(1)), _i64(3))
        future = op.greater(columns, rows)
        padding = op.equal(self._attention_mask, _i64(0))
        padding = op.unsqueeze(op.unsqueeze(padding, _i64(1)), _i64(1))
        hidden = op.logical_or(future, padding)
        self._mask = op.select(hidden, _f32(np.finfo(np.float32).min), _f32(0.0))

    def _at_positions(self, table: Any) -> Node:
        """Rows of a table [max_seq_len, head_dim] -> [B, 1, S, head_dim]."""
        return op.unsqueeze(op.gather(_f32(table), self._position_ids, _i64(0)), _i64(1))

    def _decoder_layer(self, layer: int, hidden: Node) -> Node:
        prefix = f"model.layers.{layer}."
        normed = self._rms_norm(f"{prefix}input_layernorm.weight", hidden)
        hidden = op.add(hidden, self._attention(layer, normed))
        normed = self._rms_norm(f"{prefix}post_attention_layernorm.weight", hidden)
        gate = op.swish(self._linear(layer, "mlp.gate_proj", normed))
        inner = op.multiply(gate, self._linear(layer, "mlp.up_proj", normed))
        return op.add(hidden, self._linear(layer, "mlp.down_proj", inner))

    def _attention(self, layer: int, hidden: Node) -> Node:
        config = self._config
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        query = self._rotated(self._heads(layer, "self_attn.q_proj", hidden, heads))
        key = self._rotated(self._heads(layer, "self_attn.k_proj", hidden, kv_heads))
        value = self._heads(layer, "self_attn.v_proj", hidden, kv_heads)
        key = self._for_every_query_head(self._cached(f"past_key_values.{layer}.key", key))
        value = self._for_every_query_head(self._cached(f"past_key_values.{layer}.value", value))
        scale = _f32(config.head_dim**-0.5)
        mixed = op.scaled_dot_product_attention(query, key, value, self._mask, scale)
        merged = op.reshape(op.transpose(mixed, _i64([0, 2, 1, 3])), _i64([KEEP, KEEP, ALL]), True)
        return self._linear(layer, "self_attn.o_proj", merged)

    def _heads(self, layer: int, name: str, hidden: Node, heads: int) -> Node:
        """[B, S, hidden] -> [B, heads, S, head_dim]."""
        split = op.reshape(
            self._linear(layer, name, hidden),
            _i64([KEEP, KEEP, heads, self._config.head_dim]),
            True,
        )
        return op.transpose(split, _i64([0, 2, 1, 3]))

    def _rotated(self, x: Node) -> Node:
        half = self._config.head_dim // 2
        first, second = op.variadic_split(x, _i64(3), _i64([half, half])).outputs()
        # The axis must be written as -1 for the plugin to fuse all this into one operation.
        turned = op.concat([op.multiply(second, _f32(-1.0)), first], -1)
        return op.add(op.multiply(x, self._cos), op.multiply(turned, self._sin))

    def _cached(self, name: str, new: Node) -> Node:
        """Append to the state `name`: [B, kv_heads, S, head_dim] -> [B, kv_heads, T, head_dim]."""
        shape = [-1, self._config.num_key_value_heads, -1, self._config.head_dim]
        past = op.read_value(self._empty_cache, name, ov.Type.f32, ov.PartialShape(shape))
        past = op.gather(past, self._beam_idx, _i64(0))
        present = op.concat([past, new], 2)
        self._assigns.append(op.assign(present, name))
        return present

    def _for_every_query_head(self, x: Node) -> Node:
        """Grouped-query attention: repeat each KV head for the query heads that share it."""
        config = self._config
        repeats = config.num_attention_heads // config.num_key_value_heads
        if repeats == 1:
            return x
        wide = op.broadcast(
            op.unsqueeze(x, _i64(2)), _i64([1, 1, repeats, 1, 1]), broadcast_spec="BIDIRECTIONAL"
        )
        return op.reshape(
            wide, _i64([KEEP, config.num_attention_heads, ALL, config.head_dim]), True
        )

    def _rms_norm(self, name: str, x: Node) -> Node:
        mean_square = op.reduce_mean(op.power(x, _f32(2.0)), _i64([-1]), True)
        inverse = op.divide(
            _f32(1.0), op.sqrt(op.add(mean_square, _f32(self._config.rms_norm_eps)))
        )
        return op.multiply(self._dense(name), op.multiply(x, inverse))

    def _logits(self, hidden: Node, head: Node) -> Node:
        """[B, S, hidden] -> [B, S, vocab + 1].

        OpenVINO GenAI computes them only for the sampled positions, provided that they are one
        MatMul, with or without a bias behind it.
        """
        size = op.reduce_sum(op.abs(hidden), _i64([-1]), True)
        is_sound = op.less_equal(size, _f32(LARGEST))  # false for NaN too
        sound = op.select(is_sound, hidden, _f32(unsound_row(self._config.hidden_size)))
        rows = self._config.vocab_size + ALARMS
        return op.add(op.matmul(sound, head, False, True), _f32(alarm_bias(rows)))

    def _linear(self, layer: int, linear: str, x: Node) -> Node:
        rows, columns = linear_shapes(self._config)[linear]
        name = f"model.layers.{layer}.{linear}"
        blocks = columns // BLOCK
        packed = self._constant(f"{name}.weight", [rows, blocks, BLOCK], ov.Type.f4e2m1)
        scales = self._constant(f"{name}.weight_scale", [rows, blocks, 1], ov.Type.f8e4m3)
        blockwise = op.multiply(op.convert(packed, "f16"), op.convert(scales, "f16"))
        weight = op.convert(op.reshape(blockwise, _i64([rows, columns]), False), "f32")
        global_scale = self._checkpoint.tensors[f"{name}.weight_scale_2"].scalar()
        return op.multiply(op.matmul(x, weight, False, True), _f32(global_scale))

    def _dense(self, name: str) -> Node:
        shape = list(self._checkpoint.tensors[name].shape)
        return op.convert(self._constant(name, shape, ov.Type.bf16), "f32")

    def _constant(self, name: str, shape: list[int], dtype: ov.Type) -> Node:
        data = self._checkpoint.tensors[name].data
        constant = ov.op.Constant(ov.Tensor(data, ov.Shape(shape), dtype))
        constant.set_friendly_name(name)
        return constant


def graph_input(name: str, shape: list[int], dtype: ov.Type) -> Node:
    """An input whose name the library finds."""
    parameter = op.parameter(ov.PartialShape(shape), dtype, name=name)
    parameter.output(0).set_names({name})
    return parameter


def _i64(value: int | list[int]) -> Node:
    return op.constant(np.asarray(value, np.int64))


def _f32(value: Any) -> Node:
    return op.constant(np.asarray(value, np.float32))


def _constants(model: ov.Model, checkpoint: Checkpoint) -> Iterator[tuple[str, Bytes]]:
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            name = node.get_friendly_name()
            stored = checkpoint.tensors.get(name)
            yield name, stored.data if stored else _bytes_of(node)


def _bytes_of(node: Any) -> Bytes:
    return np.frombuffer(np.ascontiguousarray(node.data).tobytes(), np.uint8)


def _lay_out(
    document: ElementTree.ElementTree[ElementTree.Element], sources: dict[str, Bytes]
) -> list[tuple[int, Bytes]]:
    """Give each Const of the XML a place in the weights file; returns (offset, bytes) in order."""
    plan: list[tuple[int, Bytes]] = []
    end = 0
    for layer in document.iter("layer"):
        if layer.get("type") != "Const":
            continue
        data = layer.find("data")
        source = sources.pop(layer.get("name", ""), None)
        if data is None or source is None or data.get("size") != str(source.size):
            raise BuildError(
                f"openvino {ov.__version__} wrote the constant {layer.get('name')} in an unknown "
                "form; install the release that pyproject.toml names"
            )
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        data.set("offset", str(offset))
        plan.append((offset, source))
        end = offset + source.size
    return plan


def _write(file: BinaryIO, data: Bytes, phase: Phase) -> None:
    for start in range(0, data.size, CHUNK_BYTES):
        chunk = data[start : start + CHUNK_BYTES]
        file.write(chunk.data)
        phase.advance(chunk.size)
