"""The tensors that an NVFP4 Llama checkpoint must have, as its config implies.

`check_forward_tensors` checks what a forward pass with quantized weights needs, `gpu_faults` what
the runtimes on GPUs need in addition.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from host.console import BuildError

from checkpoints.llama_config import LlamaConfig
from checkpoints.safetensors_file import AS_WRITTEN_OR_DAMAGED, DTYPE_BYTES, QUANTIZE, StoredTensor

BLOCK = 16  # columns that share one e4m3 scale
KV_SCALES = ("self_attn.k_proj.k_scale", "self_attn.v_proj.v_scale")
# Computed as one matrix multiplication, with one scale for the input and one for the weights.
FUSED = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("mlp.gate_proj", "mlp.up_proj"),
)

TensorKind = tuple[str, tuple[int, ...]]  # safetensors dtype, shape


def linear_shapes(config: LlamaConfig) -> dict[str, tuple[int, int]]:
    """Name within a layer -> (out_features, in_features), for the seven quantized linears."""
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
    """The start of the names of a layer's tensors."""
    return f"model.layers.{layer}."


def check_forward_tensors(
    directory: Path, config: LlamaConfig, tensors: dict[str, StoredTensor]
) -> None:
    """Raise `BuildError` if a tensor of the forward pass is missing or wrong, or one is unknown."""
    check_names(directory, config, tensors)
    for name, kind in expected_tensors(config).items():
        _check_kind(tensors[name], kind)
        if kind[0] == "F32" and not is_sound(tensors[name]):
            raise BuildError(
                f"{tensors[name].path}: {_unsound(tensors[name])}; {AS_WRITTEN_OR_DAMAGED}"
            )


def check_names(where: Path, config: LlamaConfig, names: Iterable[str]) -> None:
    """Raise `BuildError` unless `names`, found in `where`, include all tensors of the forward pass
    and no others than those of a plain Llama 3.x in NVFP4."""
    found = set(names)
    if config.tie_word_embeddings and "lm_head.weight" in found:
        found.add("model.embed_tokens.weight")  # one matrix, stored under either name
    missing = [name for name in expected_tensors(config) if name not in found]
    if missing:
        raise BuildError(
            f"{where} lacks the tensor {missing[0]}, which config.json calls for ({len(missing)} "
            f"missing in all); {_remedy(missing[0], found)}"
        )
    # A tied model may store its head twice, and early checkpoints stored the rotary frequencies.
    known = complete_layout(config).keys() | {"lm_head.weight"}
    for name in sorted(found - known):
        if not name.endswith(".rotary_emb.inv_freq"):
            raise BuildError(
                f"{where} holds the tensor {name}, which is not part of a plain Llama 3.x in "
                "NVFP4; give a checkpoint without biases, adapters or smoothing scales"
            )


def _remedy(missing: str, found: set[str]) -> str:
    """The shards are whole, so fetching them again would not help."""
    if missing == "lm_head.weight":
        return (
            "set tie_word_embeddings in config.json to true if the model's embedding is its head, "
            "else give a checkpoint with its head"
        )
    if missing.endswith((".weight_scale", ".weight_scale_2")):
        weight = missing[: missing.rindex(".")] + ".weight"
        if weight in found:
            return f"{weight} is not stored as Model Optimizer's NVFP4: {QUANTIZE}"
    return "give weights and a config.json that belong together"


def gpu_faults(config: LlamaConfig, tensors: dict[str, StoredTensor]) -> list[str]:
    """What the GPU runtimes cannot load, one sentence each. Model Optimizer never exports these.

    Weights that one matrix multiplication reads need one scale: TensorRT-LLM asserts that after
    loading everything, and vLLM takes the largest for all, which makes another model.
    """
    extra = complete_layout(config).keys() - expected_tensors(config).keys()
    faults = []
    embedding = tensors["model.embed_tokens.weight"]
    if embedding.name == "lm_head.weight":
        faults.append(f"{embedding.path}: the tied embedding is only stored as {embedding.name}")
    missing = [name for name in sorted(extra - tensors.keys()) if name.endswith(".input_scale")]
    if missing:
        faults.append(f"{len(missing)} linears have no input_scale, the first is {missing[0]}")
    kv_scales = [name for name in sorted(extra) if name.endswith(KV_SCALES)]
    absent = [name for name in kv_scales if name not in tensors]
    if absent and len(absent) < len(kv_scales):
        faults.append(f"{absent[0]} is missing, but other layers have a scale of the KV cache")
    faults += [
        f"{tensors[name].path}: {_unsound(tensors[name])}"
        for name in sorted(extra & tensors.keys())
        if not is_sound(tensors[name])
    ]
    return faults + _unshared(config, tensors)


def _unshared(config: LlamaConfig, tensors: dict[str, StoredTensor]) -> list[str]:
    for layer in range(config.num_hidden_layers):
        for group in FUSED:
            for scale in ("weight_scale_2", "input_scale"):
                names = [f"{layer_prefix(layer)}{linear}.{scale}" for linear in group]
                stored = [tensors[name] for name in names if name in tensors]
                for other in stored[1:]:
                    if other.scalar() != stored[0].scalar():
                        return [
                            f"{other.name} is {other.scalar():g}, but must be "
                            f"{stored[0].scalar():g} as {stored[0].name} is: the GPU runtimes "
                            "read them as one matrix"
                        ]
    return []


def _check_kind(tensor: StoredTensor, kind: TensorKind) -> None:
    dtype, shape = kind
    same_shape = tensor.shape == shape or (shape == () and tensor.shape == (1,))
    if tensor.dtype == dtype and same_shape:
        return
    if dtype == "U8" and tensor.dtype in ("BF16", "F16", "F32"):
        remedy = f"the linear was left unquantized: {QUANTIZE}"
    elif dtype == "BF16" and tensor.dtype in ("U8", "F8_E4M3"):
        remedy = f"it was quantized, which only the layers' linears may be: {QUANTIZE}"
    elif dtype == "BF16" and tensor.dtype != dtype:
        remedy = "give a checkpoint whose model was saved in bfloat16"
    else:
        remedy = "give weights and a config.json that belong together"
    raise BuildError(
        f"{tensor.path}: {tensor.name} is {tensor.dtype} {list(tensor.shape)}, config.json "
        f"calls for {dtype} {list(shape)}; {remedy}"
    )


def is_sound(scale: StoredTensor) -> bool:
    """Whether a scale is one finite F32 number above 0."""
    return scale.dtype == "F32" and scale.shape in ((), (1,)) and 0 < scale.scalar() < math.inf


def _unsound(scale: StoredTensor) -> str:
    if scale.dtype != "F32" or scale.shape not in ((), (1,)):
        value = f"{scale.dtype} {list(scale.shape)}"
    else:
        value = str(scale.scalar())
    return f"{scale.name} is {value}, but must be one finite F32 number above 0"
