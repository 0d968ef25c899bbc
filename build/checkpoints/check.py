"""Check that a folder is an NVFP4 checkpoint that every runtime can load, down to each value.

Found without a hash: NaN and infinity, a block scale below 0, bytes that were never written (a
file of the right size with a hole of zeros), weight_scale_2 and input_scale swapped or inverted.
Not found: a wrong value among good ones, k_scale and v_scale swapped. The values are read in
chunks, not through the mapping, so that memory stays bounded.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from host.console import BuildError, Phase, say
from host.json_document import Values, read_json

from checkpoints.layout import (
    BLOCK,
    KV_SCALES,
    check_names,
    gpu_faults,
    is_sound,
    layer_prefix,
    linear_shapes,
)
from checkpoints.llama_config import load_llama_config
from checkpoints.manifest import NEEDED, check_needed, looks_like_weights
from checkpoints.nvfp4 import Checkpoint, check_quantization, exclusion_faults, open_checkpoint
from checkpoints.safetensors_file import (
    AS_WRITTEN_OR_DAMAGED,
    FETCH_AGAIN,
    INDEX,
    QUANTIZE,
    Bytes,
    StoredTensor,
    shards,
)

CHUNK_BYTES = 2**20  # what a core's cache holds together with the intermediate results
BLOCK_BYTES = BLOCK // 2  # a block's sixteen codes are one u64
MAGNITUDES = np.uint64(0x7777777777777777)  # of sixteen codes, without their signs
HOLE_BLOCKS = 64  # 512 bytes of codes: a disk loses whole sectors
# Scales that a block whose codes are all zero may have: Model Optimizer gives a block of zeros 1.0;
# a tiny one gets the least e4m3 value, or 0 where the division by 6 * weight_scale_2 underflows.
SCALES_OF_ZERO = np.isin(np.arange(256), (0x00, 0x01, 0x38))
MOST_SILENCED = 0.01  # share of the blocks with codes whose scale underflowed to 0
MOST_ZEROS = 0.1  # share of zeros in a BF16 tensor: rows of tokens that were never trained
E4M3_NAN = 0x7F
CODE_RMS = 3.0  # root mean square of the codes of a block of weights, whatever the model
# Root mean square of a linear's weights times the square root of its inputs: near 1 when trained.
LEAST_SPREAD, MOST_SPREAD = 1 / 64, 64.0

Counts = npt.NDArray[np.int64]


def check_small_files(directory: Path) -> None:
    """Check all that can be known without the weights; raises `BuildError`."""
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
    """Check all that can be known without reading the weights' bytes; raises `BuildError`."""
    check_small_files(directory)
    _check_no_stray_weights(directory)
    return open_checkpoint(directory)


def check_content(directory: Path, for_gpu: bool = False) -> str:
    """Check the whole checkpoint; returns one line that describes it. Raises `BuildError`.

    A checkpoint that the runtimes on GPUs cannot load is refused if `for_gpu`, else a note says so.
    """
    checkpoint = check_layout(directory)
    faults = gpu_faults(checkpoint.config, checkpoint.tensors) + exclusion_faults(checkpoint)
    if faults and for_gpu:
        raise BuildError(f"{directory}: {faults[0]}; {QUANTIZE}, or use the openvino runtime")
    notes = [*checkpoint.notes]
    if faults:
        notes.append(
            f"note: {faults[0]}: the runtimes on GPUs cannot load the checkpoint, the openvino "
            "runtime can"
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
                f"{path} does not belong to the checkpoint, whose weights are "
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


@dataclass(frozen=True)
class LinearScales:
    """The numbers that show whether a linear's scales were swapped."""

    name: str
    weight_scale_2: float
    input_scale: float | None  # None if it was not exported or is not above 0
    spread: float  # root mean square of the weights times the square root of the inputs

    @property
    def looks_swapped(self) -> bool:
        """Whether swapping the two brings the weights nearer to those of a trained model.

        Inputs after an RMSNorm have size 1 and outliers, weights have size 1 / sqrt(inputs):
        input_scale is the larger one, by 5 to 400 times in the models that we looked at.
        """
        if self.input_scale is None:
            return False
        ratio = self.input_scale / self.weight_scale_2
        return ratio < 1 and abs(math.log(self.spread * ratio)) < abs(math.log(self.spread))


def check_values(checkpoint: Checkpoint, advance: Callable[[int], None]) -> list[str]:
    """Read every value of a checkpoint with the complete layout; returns warnings.

    Calls `advance` with the bytes read. Raises `BuildError` for values that no runtime can use.
    """
    linears = [
        _check_linear(checkpoint, f"{layer_prefix(layer)}{linear}", columns, advance)
        for layer in range(checkpoint.config.num_hidden_layers)
        for linear, (_, columns) in linear_shapes(checkpoint.config).items()
    ]
    for tensor in checkpoint.tensors.values():
        if tensor.dtype == "BF16":
            _check_bf16(tensor, advance)
    warnings = _swapped_scales(linears)
    _check_spreads(linears)
    return warnings


def e4m3_values() -> npt.NDArray[np.float64]:
    """The values of the e4m3 codes 0x00 to 0x7e, f64 [127]; bias 7, no infinity."""
    codes = np.arange(E4M3_NAN)
    exponent, mantissa = codes >> 3, codes & 7
    values: npt.NDArray[np.float64] = np.where(
        exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    )
    return values


def _check_linear(
    checkpoint: Checkpoint, name: str, columns: int, advance: Callable[[int], None]
) -> LinearScales:
    tensors = checkpoint.tensors
    weight, scale = tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"]
    counts = np.zeros(256, np.int64)  # of each scale
    lost = silenced = 0
    for codes, scales in zip(
        _chunks(weight, CHUNK_BYTES), _chunks(scale, CHUNK_BYTES // BLOCK_BYTES), strict=True
    ):
        counts += np.bincount(scales, minlength=256)
        is_zero = (codes.view(np.uint64) & MAGNITUDES) == 0
        lost += int(np.count_nonzero(is_zero & ~SCALES_OF_ZERO[scales])) if is_zero.any() else 0
        silenced += int(np.count_nonzero(~is_zero & (scales == 0)))
        advance(codes.size + scales.size)
    _check_scales(scale, counts)
    if lost >= HOLE_BLOCKS:
        raise BuildError(
            f"{weight.path}: {weight.name} has {lost} blocks of zeros with scales of other values, "
            f"as if bytes were never written; {AS_WRITTEN_OR_DAMAGED}"
        )
    if silenced > MOST_SILENCED * scale.data.size:
        raise BuildError(
            f"{scale.path}: {scale.name} is 0 for {silenced} of {scale.data.size} blocks, but must "
            f"be for at most {MOST_SILENCED:.0%}; {AS_WRITTEN_OR_DAMAGED}"
        )
    return _linear_scales(tensors, name, columns, counts)


def _check_scales(scale: StoredTensor, counts: Counts) -> None:
    nans, negative = int(counts[E4M3_NAN] + counts[0xFF]), int(counts[0x80:0xFF].sum())
    for number, what in ((nans, "NaN"), (negative, "negative")):
        if number:
            raise BuildError(
                f"{scale.path}: {scale.name} is {what} for {number} of {scale.data.size} blocks, "
                f"but must be 0 to 448; {AS_WRITTEN_OR_DAMAGED}"
            )
    if counts[0] == scale.data.size:
        raise BuildError(f"{scale.path}: {scale.name} is 0 everywhere; {AS_WRITTEN_OR_DAMAGED}")


def _linear_scales(
    tensors: dict[str, StoredTensor], name: str, columns: int, counts: Counts
) -> LinearScales:
    weight_scale_2 = tensors[f"{name}.weight_scale_2"].scalar()
    mean_square = float((counts[:E4M3_NAN] * e4m3_values() ** 2).sum() / counts.sum())
    spread = weight_scale_2 * CODE_RMS * math.sqrt(mean_square * columns)
    stored = tensors.get(f"{name}.input_scale")
    input_scale = stored.scalar() if stored is not None and is_sound(stored) else None
    return LinearScales(name, weight_scale_2, input_scale, spread)


def _check_bf16(tensor: StoredTensor, advance: Callable[[int], None]) -> None:
    zeros = 0
    for chunk in _chunks(tensor, CHUNK_BYTES):
        magnitudes = chunk.view(np.uint16) & np.uint16(0x7FFF)
        if magnitudes.max() >= 0x7F80:
            raise BuildError(
                f"{tensor.path}: {tensor.name} holds a NaN or an infinity, but must hold "
                f"finite numbers; {AS_WRITTEN_OR_DAMAGED}"
            )
        zeros += magnitudes.size - int(np.count_nonzero(magnitudes))
        advance(chunk.size)
    count = tensor.data.size // 2
    if zeros > MOST_ZEROS * count:
        raise BuildError(
            f"{tensor.path}: {zeros} of the {count} values of {tensor.name} are 0, as if bytes "
            f"were never written; at most {MOST_ZEROS:.0%} may be; {AS_WRITTEN_OR_DAMAGED}"
        )


def _swapped_scales(linears: list[LinearScales]) -> list[str]:
    """One linear may be odd; if more than half of them are, the export was wrong."""
    suspects = [linear for linear in linears if linear.looks_swapped]
    if not suspects:
        return []
    first = suspects[0]
    finding = (
        f"weight_scale_2 and input_scale look swapped in {len(suspects)} of {len(linears)} linears "
        f"({first.name}: {first.weight_scale_2:.3g} and {first.input_scale:.3g}, but the "
        "larger one must be input_scale)"
    )
    if 2 * len(suspects) > len(linears):
        raise BuildError(f"{finding}; export the model again with build/quantize.py")
    return [f"warning: {finding}; measure the model's answers before serving it"]


def _check_spreads(linears: list[LinearScales]) -> None:
    for linear in linears:
        if not LEAST_SPREAD <= linear.spread <= MOST_SPREAD:
            raise BuildError(
                f"{linear.name}.weight_scale_2 is {linear.weight_scale_2:.3g}, which makes the "
                f"weights {linear.spread:.3g} times as large as 1 / sqrt(inputs), but must "
                f"be {LEAST_SPREAD:.3g} to {MOST_SPREAD:g} times; check whether the scale was "
                "swapped or inverted, and export the model again with build/quantize.py"
            )


def _chunks(tensor: StoredTensor, chunk_bytes: int) -> Iterator[Bytes]:
    """The tensor's bytes; a chunk is valid until the next one is read."""
    buffer = np.empty(min(chunk_bytes, tensor.data.size), np.uint8)
    with tensor.path.open("rb", buffering=0) as file:
        file.seek(tensor.offset)
        for start in range(0, tensor.data.size, chunk_bytes):
            chunk = buffer[: min(chunk_bytes, tensor.data.size - start)]
            _read_whole(file, chunk, tensor)
            yield chunk


def _read_whole(file: io.FileIO, chunk: Bytes, tensor: StoredTensor) -> None:
    done = 0
    while done < chunk.size:
        count = file.readinto(chunk[done:].data)
        if not count:
            raise BuildError(f"{tensor.path} became shorter while it was read; {FETCH_AGAIN}")
        done += count
