"""Make the demo checkpoint from nothing: text, tokenizer, training, NVFP4, check, measurement.

Everything is seeded and no data is downloaded. A run that was killed goes on where it stood when
it is started again with the same options; a finished stage is not repeated.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from host.console import BuildError

CALIBRATION_TEXTS, HELD_OUT_TEXTS = 128, 64
OUTPUT = Path(__file__).resolve().parents[1] / "out" / "demo"


def _say(started: float, text: str) -> None:
    print(f"[{time.perf_counter() - started:6.0f} s] {text}", flush=True)


def make(output: Path, work: Path, device_name: str, steps: int | None, per_kind: int) -> None:
    """Run the stages that are not done yet; raises ValueError or OSError with one sentence."""
    from dataclasses import replace

    from quantization.device import pick_device
    from quantization.texts import TextOptions
    from quantize import Job, quantize

    from demo import corpus
    from demo.check_layout import check_layout
    from demo.make_tokenizer import write_tokenizer
    from demo.shape import Recipe
    from demo.train import train

    started = time.perf_counter()
    device = pick_device(device_name)
    recipe = Recipe()
    if steps is not None:
        recipe = replace(recipe, steps=steps, drill_steps=min(steps, recipe.drill_steps))
    work.mkdir(parents=True, exist_ok=True)
    tokenizer, bf16, calibration = work / "tokenizer", work / "bf16", work / "calibration.jsonl"
    if not tokenizer.exists():
        _say(started, "tokenizer: training")
        aside = work / "tokenizer.tmp"
        write_tokenizer(aside)
        os.replace(aside, tokenizer)
    if not (bf16 / "model.safetensors").exists():
        _say(started, f"train: {recipe.total_steps} steps on {device}")
        train(tokenizer / "tokenizer.json", recipe, work, bf16, device)
    shutil.copytree(tokenizer, bf16, dirs_exist_ok=True)
    _say(started, "quantize: NVFP4 with an FP8 KV cache")
    corpus.write_calibration(calibration, CALIBRATION_TEXTS + HELD_OUT_TEXTS)
    texts = TextOptions(calibration, CALIBRATION_TEXTS, recipe.row_length)
    quantize(Job(bf16, output, texts, device.type))
    _say(started, f"check: the layout is right, {check_layout(output):,} bytes")
    _evaluate(started, bf16, output, device, per_kind)


def _evaluate(started: float, bf16: Path, output: Path, device: Any, per_kind: int) -> None:
    from demo import evaluate

    _say(started, f"evaluate: {per_kind} questions a kind")
    scores = []
    for variant, directory in (("BF16", bf16), ("NVFP4 W4A16", output), ("NVFP4 W4A4", output)):
        scores.append(evaluate.evaluate(directory, variant, device, per_kind, wrong=[]))
        _say(
            started,
            f"evaluate: {variant} {scores[-1].total:.1%} exact, "
            f"perplexity {scores[-1].perplexity:.4f}",
        )
    print(evaluate.format_table(scores, seen={}))


def main() -> int:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, help=f"NVFP4 directory (default {OUTPUT})"
    )
    parser.add_argument("--work", type=Path, help="resumable state (default: OUTPUT.work)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--steps", type=int, help="training steps (default: the recipe's)")
    parser.add_argument(
        "--per-kind",
        type=int,
        default=50,
        metavar="N",
        help="evaluation questions of every kind (default 50)",
    )
    arguments = parser.parse_args()
    output: Path = arguments.output
    work = arguments.work or output.with_name(output.name + ".work")
    try:
        for name in ("steps", "per_kind"):
            value = getattr(arguments, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")
        make(output, work, arguments.device, arguments.steps, arguments.per_kind)
    except (BuildError, OSError, ValueError) as error:
        print(f"make_demo_checkpoint: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(
            f"make_demo_checkpoint: {error.name} is missing; install the `quantize` extra",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
