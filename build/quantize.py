#!/usr/bin/env python3
"""Step two of the build: a BF16 Llama 3.x becomes an NVFP4 checkpoint, with nvidia-modelopt.

    python build/quantize.py --model DIR --output DIR                            on cnn_dailymail
    python build/quantize.py --model DIR --output DIR --calib-data FILE.jsonl    on local text

The layout is that of nvidia/Llama-3.1-8B-Instruct-FP4: NVFP4 weights and activations in blocks of
16, FP8 scales for the KV cache. The result is checked like a fetched checkpoint and measured
(weight error of every layer, perplexity before and after) before it appears; a result that is up to
date is left alone. After a kill the calibration continues where it stopped.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib.metadata
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host.console import BuildError, run_script, say, script_imports, stop_resumable
from host.output_folder import written_whole
from quantization.report import REPORT, Report, lines_of, read_report, write_report
from quantization.texts import TextOptions, Texts, encode, gather_texts

with script_imports(__name__):
    from checkpoints.check import check_content
    from checkpoints.layout import complete_layout, layout_bytes
    from quantization.source_model import SourceModel, open_source

QUANTIZER_VERSION = "1"  # raise it when the same model and texts give another result
EXTRA = ("torch", "modelopt", "transformers", "accelerate")


@dataclass(frozen=True)
class Job:
    """One quantization."""

    model: Path
    output: Path
    texts: TextOptions
    device: str = "auto"


def quantize(job: Job) -> Report:
    """Make `job.output`, or leave it if it is up to date; raises `BuildError` or `OSError`."""
    source = open_source(job.model)
    check_extra()
    made_of = _made_of(source, job.texts)
    report = read_report(job.output, made_of)
    if report is None:
        report = _make(job, source, made_of)
        say(f"{job.output} is ready")
    else:
        say(f"{job.output} is up to date; its report:")
    for line in lines_of(report):
        say(line)
    return report


def check_extra() -> None:
    """Raise `BuildError` unless the packages of the `quantize` extra are installed."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise BuildError(
            f"{missing[0]} is missing; install the `quantize` extra with "
            "pip install '.[quantize]', or use .venv-quantize, which 'make test-quantize' makes"
        )


def _made_of(source: SourceModel, texts: TextOptions) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("nvidia-modelopt", "torch")}
    return {
        "source": source.fingerprint(),
        "texts": texts.fingerprint(),
        "versions": {**versions, "quantizer": QUANTIZER_VERSION},
    }


def _make(job: Job, source: SourceModel, made_of: dict[str, Any]) -> Report:
    needed = layout_bytes(complete_layout(source.config))
    with written_whole(job.output, REPORT, needed) as folder:
        texts = gather_texts(job.texts)
        report = _fill(folder, job, source, texts, made_of)
    _state_file(job.output).unlink(missing_ok=True)
    return report


def _fill(
    folder: Path, job: Job, source: SourceModel, texts: Texts, made_of: dict[str, Any]
) -> Report:
    # Imported here: torch and modelopt take seconds, and none is needed to refuse bad input.
    from quantization.device import check_memory, memory_needed, pick_device

    device = pick_device(job.device)
    check_memory(device, memory_needed(source), f"quantizing {job.model} on {device}")

    from quantization.measure import perplexities, predicted_tokens, weight_errors
    from quantization.modelopt import CalibrationState, calibrate, export, load_model
    from quantization.torch_checkpoint import quiet

    quiet()
    limits = job.texts.calib_tokens, source.config.vocab_size
    batches = encode(job.model, texts.calibration, *limits)
    held_out = encode(job.model, texts.held_out, *limits)
    key = hashlib.sha256(json.dumps([made_of, device.type]).encode()).hexdigest()
    state = CalibrationState(_state_file(job.output), key)
    model = calibrate(load_model(source, device), batches, state)
    export(model, source, folder)
    del model
    gc.collect()
    say(check_content(folder))
    report = Report(
        made_of=made_of,
        weight_errors=weight_errors(source, folder, device),
        perplexity=perplexities(source, folder, held_out, device),
        texts=len(held_out),
        tokens=predicted_tokens(held_out),
        device=device.type,
    )
    write_report(folder, report)
    return report


def _state_file(output: Path) -> Path:
    return output.absolute().with_name(f"{output.name}.calibration")


def _arguments() -> Job:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, texts = parser.add_argument, TextOptions()
    add("--model", type=Path, required=True, metavar="DIR", help="BF16 Hugging Face folder")
    add("--output", type=Path, required=True, metavar="DIR", help="NVFP4 folder to write")
    add("--calib-data", type=Path, metavar="FILE.jsonl",
        help='{"text": ...} a line (default: cnn_dailymail 3.0.0 from the hub)')  # fmt: skip
    add("--eval-data", type=Path, metavar="FILE.jsonl",
        help="to measure perplexity on (default: texts not calibrated on)")  # fmt: skip
    for name, what in (
        ("calib-samples", "texts to calibrate on"),
        ("calib-tokens", "tokens taken of each text"),
        ("eval-samples", "texts to measure perplexity on, at most"),
    ):
        default = getattr(texts, name.replace("-", "_"))
        add(f"--{name}", type=int, metavar="N", default=default, help=f"{what} ({default})")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = vars(parser.parse_args())
    job = {name: options.pop(name) for name in ("model", "output", "device")}
    return Job(texts=TextOptions(**options), **job)


def main() -> None:
    """The command line's entry."""
    job = _arguments()
    for name, least in (("calib_samples", 1), ("calib_tokens", 2), ("eval_samples", 1)):
        value = getattr(job.texts, name)
        if value < least:
            option = name.replace("_", "-")
            raise BuildError(f"--{option} must be at least {least}, not {value}")
    try:
        quantize(job)
    except KeyboardInterrupt:
        if not _state_file(job.output).exists():
            raise
        stop_resumable("the calibration so far", _state_file(job.output))


if __name__ == "__main__":
    run_script(main)
