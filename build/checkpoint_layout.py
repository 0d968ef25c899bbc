"""The tensors of an NVFP4 Llama checkpoint, as its config implies them; what they may be.

Two checks: `check_forward_tensors`, what arithmetic with weights alone reads, and
`check_complete_layout`, all that the runtimes on GPUs read too and rely on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from build_console import BuildError
from llama_config import LlamaConfig
from safetensors_file import DTYPE_BYTES, FETCH_AGAIN, StoredTensor

BLOCK = 16  # columns that share one e4m3 scale
KV_SCALES = ("self_attn.k_proj.k_scale", "self_attn.v_proj.v_scale")
# Of no use to weight-only arithmetic with an unquantized KV cache; read by runtimes on GPUs.
IGNORED_SUFFIXES = (".input_scale", ".k_scale", ".v_scale", ".rotary_emb.inv_freq")
# Computed as one matrix multiplication, with one scale for the input and one for the weights.
FUSED = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("mlp.gate_proj", "mlp.up_proj"),
)

TensorKind = tuple[str, tuple[int, ...]]  # safetensors dtype, shape


def linear_shapes(config: LlamaConfig) -> dict[str, tuple[int, int]]:
    """Name within a layer -> (out_features, in_features) of the seven quantized linears."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q_size = config.num_attention_heads * config.head_dim
    kv_size = config.num_key_value_heads * config.head_dim
    return {
        "self_attn.q_proj": (q_size, hidden),
        "self_attn.k_proj": (kv_size, hidden),
        "self_attn.v_proj": (kv_size, hidden),
        "self_attn.o_proj": (hidden, q_size),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def expected_tensors(config: LlamaConfig) -> dict[str, TensorKind]:
    """Name -> (dtype, shape) of every tensor that the forward pass reads."""
    hidden, vocab = config.hidden_size, config.vocab_size
    expected: dict[str, TensorKind] = {
        "model.embed_tokens.weight": ("BF16", (vocab, hidden)),
        "model.norm.weight": ("BF16", (hidden,)),
    }
    if not config.tie_word_embeddings:
        expected["lm_head.weight"] = ("BF16", (vocab, hidden))
    for layer in range(config.num_hidden_layers):
        prefix = layer_prefix(layer)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            expected[f"{prefix}{norm}.weight"] = ("BF16", (hidden,))
        for linear, (rows, columns) in linear_shapes(config).items():
            expected[f"{prefix}{linear}.weight"] = ("U8", (rows, columns // 2))
            expected[f"{prefix}{linear}.weight_scale"] = ("F8_E4M3", (rows, columns // BLOCK))
            expected[f"{prefix}{linear}.weight_scale_2"] = ("F32", ())
    return expected


def complete_layout(config: LlamaConfig, kv_scales: bool = True) -> dict[str, TensorKind]:
    """Name -> (dtype, shape) of every tensor that Model Optimizer exports for this config."""
    layout = expected_tensors(config)
    for layer in range(config.num_hidden_layers):
        prefix = layer_prefix(layer)
        scales = [f"{linear}.input_scale" for linear in linear_shapes(config)]
        scales += KV_SCALES if kv_scales else ()
        layout.update((prefix + scale, ("F32", ())) for scale in scales)
    return layout


def layout_bytes(layout: dict[str, TensorKind]) -> int:
    """Bytes of all tensors."""
    return sum(math.prod(shape) * DTYPE_BYTES[dtype] for dtype, shape in layout.values())


def layer_prefix(layer: int) -> str:
    """What a layer's tensors are called before the linear's name."""
    return f"model.layers.{layer}."


def check_forward_tensors(
    directory: Path, config: LlamaConfig, tensors: dict[str, StoredTensor]
) -> None:
    """Raise `BuildError` unless all that the forward pass reads is there and nothing unknown."""
    expected = expected_tensors(config)
    for name, kind in expected.items():
        if name not in tensors:
            raise BuildError(
                f"{directory} lacks the tensor {name} that config.json calls for; {FETCH_AGAIN}"
            )
        _check_kind(tensors[name], kind)
        if name.endswith(".weight_scale_2"):
            _check_scalar(tensors[name])
    known = {*expected, *(["lm_head.weight"] if config.tie_word_embeddings else [])}
    for name, tensor in tensors.items():
        if name not in known and not name.endswith(IGNORED_SUFFIXES):
            raise BuildError(
                f"{tensor.path} holds the tensor {name}, which no plain Llama 3.x has; "
                "give a checkpoint without biases, adapters or smoothing scales"
            )


def check_names(where: Path, config: LlamaConfig, names: Iterable[str]) -> None:
    """Raise `BuildError` unless `names`, found in `where`, are those of the complete layout.

    The KV cache's scales are there for all layers or for none.
    """
    found = set(names)
    kv_scales = any(name.endswith(KV_SCALES) for name in found)
    expected = complete_layout(config, kv_scales).keys()
    missing = [name for name in expected if name not in found]
    if missing:
        rule = (
            "allowed is a scale for every layer or for none"
            if missing[0].endswith(KV_SCALES)
            else "which config.json calls for"
        )
        raise BuildError(
            f"{where} lacks the tensor {missing[0]}, {rule} ({len(missing)} missing in all); "
            f"{FETCH_AGAIN}"
        )
    # A tied model may store its head twice, and early checkpoints stored the rotary frequencies.
    spare = {"lm_head.weight"} if config.tie_word_embeddings else set()
    for name in sorted(found - expected - spare):
        if not name.endswith(".rotary_emb.inv_freq"):
            raise BuildError(
                f"{where} holds the tensor {name}, which the NVFP4 layout of a plain Llama 3.x "
                "has not; give a checkpoint without biases, adapters or smoothing scales"
            )


def check_complete_layout(
    directory: Path, config: LlamaConfig, tensors: dict[str, StoredTensor]
) -> None:
    """Raise `BuildError` unless names, dtypes, shapes and scalars are what every runtime needs."""
    check_names(directory, config, tensors)
    for name, kind in complete_layout(config).items():
        if name in tensors:
            _check_kind(tensors[name], kind)
            if kind[0] == "F32":
                _check_scalar(tensors[name])
    if "lm_head.weight" in tensors:
        _check_kind(tensors["lm_head.weight"], ("BF16", (config.vocab_size, config.hidden_size)))
    for layer in range(config.num_hidden_layers):
        for group in FUSED:
            for scale in ("weight_scale_2", "input_scale"):
                _check_shared([tensors[f"{layer_prefix(layer)}{x}.{scale}"] for x in group])


def _check_kind(tensor: StoredTensor, kind: TensorKind) -> None:
    dtype, shape = kind
    same_shape = tensor.shape == shape or (shape == () and tensor.shape == (1,))
    if tensor.dtype != dtype or not same_shape:
        raise BuildError(
            f"{tensor.path}: {tensor.name} is {tensor.dtype} {list(tensor.shape)}, config.json "
            f"calls for {dtype} {list(shape)}; give an NVFP4 checkpoint with its own config.json"
        )


def _check_scalar(tensor: StoredTensor) -> None:
    if not 0 < tensor.scalar() < math.inf:
        raise BuildError(
            f"{tensor.path}: {tensor.name} is {tensor.scalar()}, allowed is a finite number "
            f"above 0; {FETCH_AGAIN}"
        )


def _check_shared(group: list[StoredTensor]) -> None:
    """Refused, not warned about: TensorRT-LLM asserts it after loading everything, and vLLM takes
    the largest scale for all, which is another model. Model Optimizer never exports it."""
    first, *others = group
    for other in others:
        if other.scalar() != first.scalar():
            raise BuildError(
                f"{other.path}: {other.name} is {other.scalar()}, allowed is {first.scalar()} as "
                f"{first.name} has: they are one matrix to the GPU runtimes; export the model "
                "again with build/quantize.py"
            )
