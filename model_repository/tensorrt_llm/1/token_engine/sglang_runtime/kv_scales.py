"""The KV cache's scales in a checkpoint, and whether SGLang would apply them correctly.

Model Optimizer stores one `k_scale` and one `v_scale` a layer: keys and values are divided by them
before they are kept in 8 bits, and multiplied again when they are read. SGLang 0.5.23 divides only
where the cache has other bits than the model (mem_cache/memory_pool.py, `set_kv_buffer`), and
multiplies always (layers/attention/triton_backend.py and flashinfer_backend.py; with FA3 wherever
kv_cache_dtype is not "auto"): in a cache of 16 bits scales other than 1 give wrong answers.

vLLM 0.32 sets them to 1 unless the cache is quantized (layers/quantization/kv_cache.py): on an
H200 the demo, whose scales are not 1, gave all golden tokens from a cache in BF16. TensorRT-LLM's
options name no cache of 16 bits for a checkpoint that was calibrated for 8.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from token_engine.checks import read_object
from token_engine.interface import EngineLoadError

SUFFIXES = (".k_scale", ".v_scale", ".kv_scale")
FORMATS = {"F32": "<f", "F16": "<e", "F64": "<d"}
EIGHT_BITS = ("fp8_e4m3", "fp8_e5m2")
LARGEST_HEADER = 100_000_000  # bytes; the format's own limit


def check_kv_scales(directory: Path, kv_cache_dtype: str) -> None:
    """Raise `EngineLoadError` for a KV cache in which SGLang applies the scales of the checkpoint
    in `directory` on one side only. `kv_cache_dtype` is the runtime option."""
    if kv_cache_dtype in EIGHT_BITS or (kv_cache_dtype == "auto" and _says_fp8(directory)):
        return
    for name, value in read_kv_scales(directory):
        if value != 1:
            raise EngineLoadError(
                f"runtime_options.kv_cache_dtype is {kv_cache_dtype!r} and {name} of the "
                f"checkpoint is {value:g}; with KV scales other than 1 it must be 'fp8_e4m3', as "
                "SGLang would multiply keys and values by scales that it has not divided them by"
            )


def read_kv_scales(directory: Path) -> Iterator[tuple[str, float]]:
    """The name and value of each scale, in the order of the files; raises `EngineLoadError`."""
    for path in sorted(directory.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                yield from _scales_of(file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise EngineLoadError(
                f"{path} cannot be read ({error!r}); fetch the checkpoint again"
            ) from error


def _scales_of(file: BinaryIO) -> Iterator[tuple[str, float]]:
    """The scales of one safetensors file. Only its header and the scales are read."""
    size = int.from_bytes(file.read(8), "little")
    if size > LARGEST_HEADER:
        raise ValueError(f"its header has {size} bytes")
    header = json.loads(file.read(size))
    for name, entry in header.items():
        if name.endswith(SUFFIXES):
            begin, end = entry["data_offsets"]
            file.seek(8 + size + begin)
            yield name, _scalar(entry["dtype"], file.read(end - begin))


def _scalar(dtype: str, data: bytes) -> float:
    if dtype == "BF16":
        dtype, data = "F32", b"\0\0" + data
    value: float = struct.unpack(FORMATS[dtype], data)[0]
    return value


def _says_fp8(directory: Path) -> bool:
    """Whether "auto" is a cache of 8 bits. SGLang reads config.json and, where that says nothing of
    quantization, hf_quant_config.json."""
    facts = read_object(directory / "config.json").get("quantization_config")
    if not facts:
        path = directory / "hf_quant_config.json"
        facts = read_object(path) if path.is_file() else {}
    if not isinstance(facts, dict):
        return False
    if facts.get("quant_algo") is None:  # nested, as in hf_quant_config.json
        facts = facts.get("quantization") or {}
    return isinstance(facts, dict) and _is_fp8(facts)


def _is_fp8(facts: dict[str, Any]) -> bool:
    """As layers/quantization/modelopt_quant.py and model_runner read it: a scheme goes first, and
    only its words have a second spelling."""
    scheme = facts.get("kv_cache_scheme")
    if isinstance(scheme, dict):
        return (scheme.get("type"), scheme.get("num_bits")) == ("float", 8)
    if isinstance(scheme, str):
        return scheme.strip().upper() in ("FP8", "FLOAT8")
    return str(facts.get("kv_cache_quant_algo")).upper() == "FP8"
