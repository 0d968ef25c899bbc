"""A random BF16 Llama and texts for quantize.py, and a way to run build scripts.

The fixtures are in `quantize_fixtures`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.paths import BUILD, DEMO_CHECKPOINT

# The models are tiny: a second thread would only wait.
torch.set_num_threads(1)

CODES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float64)
TEXTS = [
    *(f"The capital of {name} is a city." for name in ("France", "Peru", "Japan", "Kenya")),
    *(f"{number}, {number + 1}, {number + 2}, and so on." for number in range(4)),
    *(f"A {animal} makes a sound that one knows." for animal in ("pig", "cow", "dog", "cat")),
]
HELD_OUT = [
    *("The capital of Chile is Santiago, and 7 plus 8 is 15.", "A horse neighs.", "No."),
    *(f"{number} plus {number} is {2 * number}, as they say." for number in range(3, 15)),
]
TOKENS = 12  # taken of each text: some are longer, some shorter
Floats = npt.NDArray[np.floating[Any]]


def write_model(folder: Path, **changes: Any) -> Path:
    """A random Llama; `changes` go into its config.json."""
    config = json.loads((DEMO_CHECKPOINT / "config.json").read_text())
    config.pop("quantization_config")
    config.update(num_hidden_layers=2, hidden_size=64, intermediate_size=128, head_dim=16)
    config.update(initializer_range=0.1, **changes)
    torch.manual_seed(3)
    model: Any = LlamaForCausalLM(LlamaConfig(**config))
    with torch.no_grad():
        model.lm_head.weight *= 5  # so that rounding shows in the perplexity
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(DEMO_CHECKPOINT / name, folder)
    (folder / "LICENSE").write_text("a licence")
    return folder


def write_texts(path: Path, texts: Iterable[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def unpack(packed: npt.NDArray[np.uint8]) -> Floats:
    """uint8 [out, in / 2] -> float64 [out, in]; the low nibble is the even column."""
    codes = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)
    values: Floats = np.where(codes & 8, -1.0, 1.0) * CODES[codes & 7]
    return values


def run(script: str, *arguments: object, prelude: str = "") -> subprocess.CompletedProcess[str]:
    """Run a build script as a process, after `prelude`."""
    command = [sys.executable, str(BUILD / script), *map(str, arguments)]
    if prelude:
        code = f"import sys; sys.path.insert(0, {str(BUILD)!r}); sys.argv = sys.argv[1:]\n"
        code += f"{prelude}\nimport runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
        command[1:1] = ["-c", code]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=BUILD, env=environment)
