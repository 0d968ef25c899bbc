"""The texts for calibrating a quantization, and the held-out texts for measuring it.

They come from JSON-lines files of {"text": ...}, or are the first articles of cnn_dailymail 3.0.0's
training part, as in Model Optimizer's own recipe.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host.console import BuildError

DATASET, COMMIT = "abisee/cnn_dailymail", "96df5e686bee6baa90b8bee7c28b81fa3fa6223d"
DATASET_FILE = "3.0.0/train-00000-of-00003.parquet"  # 257 MB; the first third of the rows
DATASET_COLUMN = "article"


@dataclass(frozen=True)
class TextOptions:
    """Which texts, how many, and how many tokens of each."""

    calib_data: Path | None = None  # None: cnn_dailymail
    calib_samples: int = 512
    calib_tokens: int = 512
    eval_data: Path | None = None  # None: the texts after the calibration's
    eval_samples: int = 64  # at most

    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines the tokens, to compare with an earlier run."""
        return {
            "calibration": _digest(self.calib_data) if self.calib_data else f"{DATASET}@{COMMIT}",
            "evaluation": _digest(self.eval_data) if self.eval_data else "held out",
            "numbers": [self.calib_samples, self.calib_tokens, self.eval_samples],
        }


@dataclass(frozen=True)
class Texts:
    """The two sets of texts; no text is in both."""

    calibration: list[str]
    held_out: list[str]


def gather_texts(options: TextOptions) -> Texts:
    """Read or fetch the texts; raises `BuildError` with file and line for a bad one."""
    wanted = options.calib_samples + (0 if options.eval_data else options.eval_samples)
    if options.calib_data is None:
        source, texts = DATASET, _articles(wanted)
    else:
        source, texts = str(options.calib_data), read_texts(options.calib_data)
    if len(texts) < options.calib_samples:
        raise BuildError(
            f"{source} has {len(texts)} texts, --calib-samples asks for {options.calib_samples}; "
            "give more text, or a smaller --calib-samples"
        )
    calibration = texts[: options.calib_samples]
    others = read_texts(options.eval_data) if options.eval_data else texts[options.calib_samples :]
    seen = set(calibration)
    held_out = [text for text in others if text not in seen][: options.eval_samples]
    if not held_out:
        raise BuildError(
            f"{options.eval_data or source} has no text that was not calibrated on, so there is "
            "nothing to measure perplexity on; give --eval-data other text, or a smaller "
            "--calib-samples"
        )
    return Texts(calibration, held_out)


def read_texts(path: Path) -> list[str]:
    """The texts of a JSON-lines file of {"text": ...}; raises `BuildError` for a bad line."""
    texts: list[str] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                texts.append(_text(path, number, line))
    except (FileNotFoundError, IsADirectoryError):
        raise BuildError(f"{path} is not a file; give one with a JSON object a line") from None
    if not texts:
        raise BuildError(f'{path} has no text; give a file with {{"text": "..."}} a line')
    return texts


def _text(path: Path, number: int, line: bytes) -> str:
    try:
        text = json.loads(line)["text"]
        if isinstance(text, str) and text.strip():
            text.encode()  # fails for a lone surrogate, such as "\ud800"
            return text
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise BuildError(
        f'{path}:{number} must be a JSON object whose "text" is a string of some words; correct or '
        "remove that line"
    )


def _articles(count: int) -> list[str]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise BuildError(
            f"{DATASET} cannot be read without {error.name}; install the `quantize` extra with "
            "pip install '.[quantize]', or give local text with --calib-data FILE.jsonl"
        ) from error
    from checkpoints.hub import dataset_file  # needs numpy, and --help must not

    path = dataset_file(DATASET, COMMIT, DATASET_FILE)
    articles: list[str] = []
    for batch in parquet.ParquetFile(path).iter_batches(batch_size=256, columns=[DATASET_COLUMN]):
        articles += batch.column(0).to_pylist()
        if len(articles) >= count:
            break
    return articles[:count]


def encode(directory: Path, texts: list[str], max_tokens: int, vocab_size: int) -> list[list[int]]:
    """The first `max_tokens` token ids of each text; raises `BuildError`.

    A text that begins with the begin-of-text token gets no second one.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
    except Exception as error:
        raise BuildError(
            f"{directory / 'tokenizer.json'} cannot be loaded ({type(error).__name__}); fetch the "
            "model's tokenizer again"
        ) from error
    tokenizer.truncation_side = "right"  # whatever tokenizer.json kept from training
    encoded: list[list[int]] = []
    for text in texts:
        has_bos = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        ids = tokenizer.encode(
            text, add_special_tokens=not has_bos, truncation=True, max_length=max_tokens
        )
        encoded.append(ids)
    largest = max((max(ids) for ids in encoded if ids), default=-1)
    if not 0 <= largest < vocab_size:
        raise BuildError(
            f"{directory / 'tokenizer.json'}: token ids must be 0 to {vocab_size - 1} as "
            f"config.json's vocab_size says, not {largest}; give the model its own tokenizer"
        )
    return encoded


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
