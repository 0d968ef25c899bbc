"""Whether a folder's content is an NVFP4 checkpoint that every runtime can take, value by value."""

from __future__ import annotations

from pathlib import Path

from host.console import BuildError, Phase, say
from host.json_document import Values, read_json

from checkpoints.layout import KV_SCALES, check_names, gpu_faults
from checkpoints.llama_config import load_llama_config
from checkpoints.manifest import NEEDED, check_needed, looks_like_weights
from checkpoints.nvfp4 import Checkpoint, check_quantization, exclusion_faults, open_checkpoint
from checkpoints.safetensors_file import INDEX, QUANTIZE, shards
from checkpoints.values import check_values


def check_small_files(directory: Path) -> None:
    """All that can be known without the weights; raises `BuildError`."""
    check_needed(str(directory), [name for name in NEEDED if (directory / name).is_file()])
    config = load_llama_config(directory)
    check_quantization(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            read_json(directory / name)
    if (directory / INDEX).exists():
        placed = [name for names in shards(directory).values() for name in names]
        check_names(directory / INDEX, config, placed)


def check_layout(directory: Path) -> Checkpoint:
    """All that can be known without reading the weights' bytes; raises `BuildError`."""
    check_small_files(directory)
    _check_no_stray_weights(directory)
    return open_checkpoint(directory)


def check_content(directory: Path, for_gpu: bool = False) -> str:
    """Check the whole checkpoint; returns what it is in one line. Raises `BuildError`.

    `for_gpu`: it is refused where the runtimes on GPUs cannot load it, else that is said.
    """
    checkpoint = check_layout(directory)
    faults = gpu_faults(checkpoint.config, checkpoint.tensors) + exclusion_faults(checkpoint)
    if faults and for_gpu:
        raise BuildError(f"{directory}: {faults[0]}; {QUANTIZE}, or use the openvino runtime")
    notes = [*checkpoint.notes]
    if faults:
        notes.append(
            f"note: {faults[0]}: the openvino runtime computes all the same, the runtimes on GPUs "
            "cannot load the checkpoint"
        )
    total = checkpoint.data_bytes
    with Phase(f"reading {len(checkpoint.tensors):,} tensors, {total:,} bytes", total) as phase:
        warnings = check_values(checkpoint, phase.advance)
    for warning in [*notes, *warnings, *_index_warnings(directory, total)]:
        say(warning)
    return (
        f"{len(checkpoint.tensors):,} tensors, {total:,} bytes, "
        f"{checkpoint.config.num_hidden_layers} layers, NVFP4, {_kv_scales(checkpoint)}"
    )


def _check_no_stray_weights(directory: Path) -> None:
    """TensorRT-LLM loads every *.safetensors of a folder, whatever the index says."""
    placed = {path.name for path in shards(directory)}
    for path in sorted(directory.iterdir()):
        if looks_like_weights(path.name) and path.name not in placed:
            raise BuildError(
                f"{path} belongs to no checkpoint here, whose weights are "
                f"{', '.join(sorted(placed))}; remove it"
            )


def _index_warnings(directory: Path, total: int) -> list[str]:
    """No runtime reads the index's total, and exporters have counted it in several ways."""
    if not (directory / INDEX).exists():
        return []
    index = Values(directory / INDEX, read_json(directory / INDEX))
    stated = index.part("metadata").document.get("total_size")
    if stated in (None, total):
        return []
    return [f"warning: {directory / INDEX} states {stated} bytes of tensors, there are {total}"]


def _kv_scales(checkpoint: Checkpoint) -> str:
    scales = [
        tensor.scalar() for name, tensor in checkpoint.tensors.items() if name.endswith(KV_SCALES)
    ]
    if not scales:
        return "no scales of the KV cache"
    return f"scales of the KV cache {min(scales):.3g} to {max(scales):.3g}"
