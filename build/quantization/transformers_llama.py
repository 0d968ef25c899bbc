"""transformers' Llama, configured from the folder's own config.json, whoever wrote that.

transformers 4 reads `rope_parameters`, which transformers 5 writes, as theta 10000 without scaling
and says nothing. Both read `rope_theta` and `rope_scaling`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from checkpoints.llama_config import load_llama_config, plain_rope
from host.json_document import read_json
from transformers import LlamaConfig
from transformers.utils import logging as transformers_logging

Llama: TypeAlias = Any  # transformers' LlamaForCausalLM, whose own types are not strict


def transformers_config(directory: Path, dtype: str) -> Any:
    """A `LlamaConfig` without quantization, in the spelling that every version reads."""
    facts = load_llama_config(directory)
    values = read_json(directory / "config.json")
    for key in ("quantization_config", "rope_parameters", "torch_dtype", "dtype"):
        values.pop(key, None)
    values |= plain_rope(facts)
    factory: Any = LlamaConfig
    return factory(**values, torch_dtype=dtype)


def quiet() -> None:
    """No bars and no advice from transformers: the build shows its own progress."""
    logging: Any = transformers_logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
