"""Make the demo checkpoint from nothing: text, tokenizer, training, NVFP4, check, measurement.

Everything is seeded and no data is downloaded. A finished stage is not repeated, and a run that was
killed goes on when it is started again with the same options.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host.console import BuildError, at_least_1, run_script

CALIBRATION_TEXTS, HELD_OUT_TEXTS = 128, 64
OUTPUT = Path(__file__).resolve().parents[1] / "out" / "demo"
FILES = (
    "config.json",
    "generation_config.json",
    "hf_quant_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
MAX_BYTES = 8_000_000  # it is committed


@dataclass(frozen=True)
class Options:
    """The command line."""

    output: Path
    work: Path | None
    device: str
    steps: int | None
    per_kind: int


def _say(started: float, text: str) -> None:
    print(f"[{time.perf_counter() - started:6.0f} s] {text}", flush=True)


def make(output: Path, work: Path, device_name: str, steps: int | None, per_kind: int) -> None:
    """Run the stages that are not done yet; raises `BuildError` or OSError."""
    from dataclasses import replace

    from quantization.device import pick_device
    from quantization.texts import TextOptions
    from quantize import Job, quantize

    from demo import corpus
    from demo.shape import Recipe
    from demo.tokenizer import write_tokenizer
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
    _say(started, f"check: the layout is right, {check_shipped(output):,} bytes")
    _evaluate(started, bf16, output, device, per_kind)


def check_shipped(directory: Path) -> int:
    """Check that the folder has all that the published checkpoint has; returns its bytes.

    Raises `BuildError` for the first fault. `quantize` has checked the tensors that it needs.
    """
    from checkpoints.layout import complete_layout
    from checkpoints.nvfp4 import open_checkpoint

    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise BuildError(f"{directory} lacks {', '.join(missing)}")
    size = sum((directory / name).stat().st_size for name in FILES)
    if size > MAX_BYTES:
        raise BuildError(f"{directory} must have at most {MAX_BYTES} bytes, not {size}")
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    for key in ("rope_theta", "rope_scaling", "torch_dtype", "quantization_config"):
        if key not in config:
            raise BuildError(f"{directory / 'config.json'} lacks {key}")
    checkpoint = open_checkpoint(directory)
    for name in sorted(complete_layout(checkpoint.config).keys() ^ checkpoint.tensors.keys()):
        raise BuildError(f"{directory} and Model Optimizer's layout differ in the tensor {name}")
    _check_template(directory)
    return size


def _check_template(directory: Path) -> None:
    """The training text and the shipped chat template must render alike."""
    from transformers import AutoTokenizer

    from demo import corpus

    tokenizer = AutoTokenizer.from_pretrained(directory)
    for chat in corpus.evaluation_chats(corpus.EVAL_SEED, 1):
        rendered = tokenizer.apply_chat_template(
            list(chat.messages), tokenize=False, add_generation_prompt=True
        )
        if rendered != corpus.render_prompt(chat.messages):
            raise BuildError(f"the chat template renders {rendered!r} for {chat.messages}")


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


def main() -> None:
    """The command line's entry: `python -m demo.make`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--output", type=Path, default=OUTPUT, help=f"NVFP4 folder (default {OUTPUT})")
    add("--work", type=Path, help="what a later run goes on from (default: OUTPUT.work)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--steps", type=at_least_1, help="training steps (default: the recipe's)")
    add("--per-kind", type=at_least_1, default=50, metavar="N", help="questions a kind (50)")
    options = Options(**vars(parser.parse_args()))
    work = options.work or options.output.with_name(f"{options.output.name}.work")
    try:
        make(options.output, work, options.device, options.steps, options.per_kind)
    except ImportError as error:
        raise BuildError(f"{error.name} is missing; install the `quantize` extra") from error


if __name__ == "__main__":
    run_script(main)
