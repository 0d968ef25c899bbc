"""`quantization_report.json` in the NVFP4 folder: what the folder was made of, and how good it is.

It is written last, so a folder that holds it is whole. A later run compares it with its inputs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPORT = "quantization_report.json"
FORMAT_VERSION = 1
COLUMNS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EXPLANATIONS = {
    "BF16": "the source",
    "NVFP4 W4A16": "weights dequantized",
    "NVFP4 W4A4": "the inputs of the quantized linears rounded too, as on a Blackwell GPU",
}


@dataclass(frozen=True)
class LinearError:
    """Sums of squares of one linear's weights: of the error and of the BF16 values."""

    layer: int
    linear: str  # within the layer: "self_attn.q_proj"
    error: float
    total: float


@dataclass(frozen=True)
class Report:
    """The content of the report."""

    made_of: dict[str, Any]  # source files, texts, versions; compared for equality
    weight_errors: list[LinearError]
    perplexity: dict[str, float]  # variant -> over the held-out texts
    texts: int
    tokens: int  # predicted
    device: str


def relative_rms(errors: list[LinearError]) -> float:
    """Root mean square of dequantized - BF16, relative to that of the BF16 weights."""
    total = sum(each.total for each in errors)
    return float((sum(each.error for each in errors) / total) ** 0.5)


def error_table(errors: list[LinearError]) -> list[str]:
    """A heading and a line for every layer."""
    heads = [column.removesuffix("_proj") for column in COLUMNS]
    lines = ["layer  " + "".join(f"{head:>8}" for head in [*heads, "all"])]
    for layer in sorted({each.layer for each in errors}):
        mine = [each for each in errors if each.layer == layer]
        cells = [[each for each in mine if each.linear.endswith(column)] for column in COLUMNS]
        values = [relative_rms(cell) for cell in [*cells, mine]]
        lines.append(f"{layer:>5}  " + "".join(f"{value:8.4f}" for value in values))
    return lines


def lines_of(report: Report) -> list[str]:
    """The report in lines of text."""
    errors = report.weight_errors
    lines = ["weight error, root mean square of NVFP4 - BF16 relative to BF16:"]
    lines += error_table(errors)
    lines.append(f"weight error of all {len(errors)} linears: {relative_rms(errors):.4f}")
    lines.append(
        f"perplexity of {report.tokens:,} tokens of {report.texts} held-out texts; arithmetic in "
        f"f32 on {report.device}, KV cache not quantized:"
    )
    lines += [
        f"  {variant:<12} {value:10.4f}  {EXPLANATIONS[variant]}"
        for variant, value in report.perplexity.items()
    ]
    return lines


def write_report(folder: Path, report: Report) -> None:
    """Write the report, after all other files of `folder`."""
    document = {"format_version": FORMAT_VERSION, **asdict(report), "files": _sizes(folder)}
    (folder / REPORT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_report(folder: Path, made_of: dict[str, Any]) -> Report | None:
    """The folder's report if it has the same inputs and no file has changed since, else None."""
    path = folder / REPORT
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        files, version = document.pop("files"), document.pop("format_version")
        errors = [LinearError(**each) for each in document.pop("weight_errors")]
        report = Report(weight_errors=errors, **document)
        written = path.stat().st_mtime_ns
        younger = any((folder / name).stat().st_mtime_ns > written for name in files)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if version != FORMAT_VERSION or report.made_of != made_of:
        return None
    return None if younger or _sizes(folder) != files else report


def _sizes(folder: Path) -> dict[str, int]:
    return {
        path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != REPORT
    }
