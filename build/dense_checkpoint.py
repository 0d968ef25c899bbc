#!/usr/bin/env python3
"""Copy an NVFP4 checkpoint with its weights in BF16, for runtimes without an NVFP4 kernel.

    python build/dense_checkpoint.py --checkpoint DIR --output DIR

Each weight is e2m1 * weight_scale * weight_scale_2 in f32, rounded once to BF16. The copy is about
three times as large and has no quantization_config. vLLM on a CPU needs one: it has no NVFP4 kernel
there.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from checkpoints.llama_config import plain_config
from host.console import BuildError, Phase, run_script, say, script_imports
from host.output_folder import written_whole

with script_imports(__name__):
    import numpy as np
    import numpy.typing as npt
    from checkpoints.check import e4m3_values
    from checkpoints.layout import BLOCK
    from checkpoints.nvfp4 import Checkpoint, open_checkpoint
    from checkpoints.safetensors_file import SINGLE_SHARD, header_bytes

    Bf16 = npt.NDArray[np.uint16]  # the upper halves of f32 numbers
    E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)
WHOLE = "config.json"  # written last


def write_dense_checkpoint(source: Path, output: Path) -> None:
    """Write the copy; raises `BuildError`."""
    checkpoint = open_checkpoint(source)
    layout = _layout(checkpoint)
    total = sum(2 * int(np.prod(shape)) for _, shape in layout)
    with written_whole(output, WHOLE, total) as folder:
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        with (
            Phase("writing the weights in BF16", total) as phase,
            (folder / SINGLE_SHARD).open("wb") as file,
        ):
            file.write(header_bytes((name, "BF16", shape) for name, shape in layout))
            for values in _dense_tensors(checkpoint, [name for name, _ in layout]):
                file.write(values.tobytes())
                phase.advance(values.nbytes)
        config = plain_config(source, checkpoint.config)
        config.pop("quantization_config", None)
        (folder / WHOLE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    say(f"{output} is ready")


def _layout(checkpoint: Checkpoint) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of the weights in the order of the file."""
    shapes: list[tuple[str, tuple[int, ...]]] = []
    for name, tensor in sorted(checkpoint.tensors.items()):
        if not name.endswith(".weight"):
            continue  # a scale
        if tensor.dtype == "U8":
            shapes.append((name, (tensor.shape[0], 2 * tensor.shape[1])))
        elif tensor.dtype == "BF16":
            shapes.append((name, tensor.shape))
        else:
            raise BuildError(f"{tensor.path}: {name} must be U8 or BF16, not {tensor.dtype}")
    return shapes


def _dense_tensors(checkpoint: Checkpoint, names: list[str]) -> Iterator[Bf16]:
    scales = np.full(256, np.nan, np.float32)  # a block scale is never negative
    scales[: len(e4m3_values())] = e4m3_values()
    for name in names:
        tensor = checkpoint.tensors[name]
        if tensor.dtype == "BF16":
            yield tensor.data.view(np.uint16)
            continue
        rows = tensor.shape[0]
        block_scales = scales[checkpoint.tensors[f"{name}_scale"].data].reshape(rows, -1, 1)
        block_scales = block_scales * np.float32(checkpoint.tensors[f"{name}_scale_2"].scalar())
        codes = np.stack([tensor.data & 0xF, tensor.data >> 4], axis=-1)
        yield to_bf16(E2M1[codes].reshape(rows, -1, BLOCK) * block_scales)


def to_bf16(values: npt.NDArray[np.float32]) -> Bf16:
    """Round to the nearest, ties to even. For finite numbers."""
    bits = values.reshape(-1).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def main() -> None:
    """The command line's entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="folder with the NVFP4 checkpoint"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the copy")
    options = parser.parse_args()
    checkpoint: Path = options.checkpoint
    output: Path = options.output
    write_dense_checkpoint(checkpoint, output)


if __name__ == "__main__":
    run_script(main)
