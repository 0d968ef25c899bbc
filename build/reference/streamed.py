"""The reference for checkpoints that do not fit in memory in f32: every pass reads them again.

The arithmetic of `numpy_llama.py`, but a linear is dequantized a few rows at a time from the mapped
files, used and dropped. Only the KV cache and a pass's activations stay in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reference.numpy_llama import F32, ReferenceLlama, dequantize, map_checkpoint, read_config

CHUNK_ROWS = 512  # of a linear: its f32 values stay in the processor's cache


class StreamedLlama(ReferenceLlama):
    """A Llama decoder over the files of one folder; several sequences share what a pass reads."""

    def __init__(self, directory: Path, sequences: int) -> None:
        """Maps every *.safetensors; raises ValueError when there is none."""
        self._stored = map_checkpoint(directory)
        self.advance: Callable[[int], None] = lambda size: (
            None
        )  # gets a linear's bytes when it is done
        self._configure(read_config(directory), sequences, self._stored)

    @property
    def pass_bytes(self) -> int:
        """The bytes that one pass with its logits reports to `advance`."""
        names = [name for name in self._stored if name.endswith("_proj.weight")]
        return sum(self._stored[name].data.size for name in [*names, f"{self._head}.weight"])

    def _linear(self, x: F32, name: str) -> F32:
        out = self._stored[f"{name}.weight"].shape[0]
        product = np.empty((len(x), out), np.float32)
        for first in range(0, out, CHUNK_ROWS):
            rows = slice(first, min(first + CHUNK_ROWS, out))
            np.matmul(x, self._dequantized(name, rows).T, out=product[:, rows])
        self.advance(self._stored[f"{name}.weight"].data.size)
        return product

    def _dequantized(self, name: str, rows: slice) -> F32:
        weight = f"{name}.weight"
        stored = self._stored[weight].rows(rows)
        if f"{weight}_scale_2" not in self._stored:
            return stored
        scale = self._stored[f"{weight}_scale"].rows(rows)
        return dequantize(stored, scale, self._stored[f"{weight}_scale_2"].values())

    def _rows(self, name: str, ids: NDArray[np.int64]) -> F32:
        return self._stored[f"{name}.weight"].rows(ids)

    def _vector(self, name: str) -> F32:
        return self._stored[f"{name}.weight"].values()
