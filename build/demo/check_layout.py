"""Check that a demo checkpoint has the layout of nvidia/Llama-3.1-8B-Instruct-FP4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from demo import corpus

FILES = (
    "config.json",
    "generation_config.json",
    "hf_quant_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
MAX_BYTES = 8_000_000

TensorType = tuple[str, tuple[int, ...]]  # safetensors dtype, shape


def expected_tensors(config: dict[str, Any]) -> dict[str, TensorType]:
    """Every tensor that the NVFP4 export of this config has."""
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    width = int(config["head_dim"])
    query = width * int(config["num_attention_heads"])
    key = width * int(config["num_key_value_heads"])
    linears = {
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    vocab = (int(config["vocab_size"]), hidden)
    tensors: dict[str, TensorType] = {
        "lm_head.weight": ("BF16", vocab),
        "model.embed_tokens.weight": ("BF16", vocab),
        "model.norm.weight": ("BF16", (hidden,)),
    }
    for layer in range(int(config["num_hidden_layers"])):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{norm}.weight"] = ("BF16", (hidden,))
        for name, (rows, columns) in linears.items():
            tensors[f"{prefix}.{name}.weight"] = ("U8", (rows, columns // 2))
            tensors[f"{prefix}.{name}.weight_scale"] = ("F8_E4M3", (rows, columns // 16))
            tensors[f"{prefix}.{name}.weight_scale_2"] = ("F32", ())
            tensors[f"{prefix}.{name}.input_scale"] = ("F32", ())
        tensors[f"{prefix}.self_attn.k_proj.k_scale"] = ("F32", ())
        tensors[f"{prefix}.self_attn.v_proj.v_scale"] = ("F32", ())
    return tensors


def stored_tensors(path: Path) -> dict[str, TensorType]:
    """Names, dtypes and shapes in the header of a safetensors file."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {
        name: (entry["dtype"], tuple(entry["shape"]))
        for name, entry in header.items()
        if name != "__metadata__"
    }


def check_layout(directory: Path) -> int:
    """Return the directory's bytes; raises ValueError naming the first thing that is wrong."""
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise ValueError(f"{directory} lacks {', '.join(missing)}")
    size = sum((directory / name).stat().st_size for name in FILES)
    if size > MAX_BYTES:
        raise ValueError(f"{directory} has {size} bytes; at most {MAX_BYTES} are shipped")
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    for key in ("rope_theta", "rope_scaling", "torch_dtype", "quantization_config"):
        if key not in config:
            raise ValueError(f"config.json lacks {key}, which the published checkpoint has")
    expected, stored = expected_tensors(config), stored_tensors(directory / "model.safetensors")
    for name in sorted(expected.keys() | stored.keys()):
        if expected.get(name) != stored.get(name):
            raise ValueError(f"{name} is {stored.get(name)}, not {expected.get(name)}")
    _check_template(directory)
    return size


def _check_template(directory: Path) -> None:
    """The training text and the shipped chat template must render alike."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    for chat in corpus.evaluation_chats(corpus.EVAL_SEED, 1):
        rendered = tokenizer.apply_chat_template(
            list(chat.messages), tokenize=False, add_generation_prompt=True
        )
        if rendered != corpus.render_prompt(chat.messages):
            raise ValueError(f"the chat template renders {rendered!r} for {chat.messages}")
