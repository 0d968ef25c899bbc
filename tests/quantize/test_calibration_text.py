"""The texts of a quantization: from files, and cnn_dailymail from a hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from host.console import BuildError
from pyarrow import parquet
from quantization.texts import COMMIT, DATASET, DATASET_FILE, TextOptions, gather_texts, read_texts

from tests.support.hub_server import LocalHub, Repository, serving
from tests.support.paths import BUILD
from tests.support.quantize_models import write_texts

ARTICLES = [f"Article {number} of the day." for number in range(700)]
GATHER = """
import json, sys
sys.path.insert(0, {build!r})
from host.console import run_script
from quantization.texts import TextOptions, gather_texts
def main():
    texts = gather_texts(TextOptions(calib_samples=400, eval_samples=8))
    print(json.dumps([texts.calibration, texts.held_out]))
run_script(main)
"""


class Gatherer:
    """Gathers the default texts in a process of its own: huggingface_hub reads its environment when
    it is imported."""

    def __init__(self, endpoint: str, home: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        self._environment = {
            **{name: value for name, value in kept.items() if "proxy" not in name.lower()},
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
        }

    def __call__(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", GATHER.format(build=str(BUILD))],
            env={**self._environment, **environment},
            capture_output=True,
            text=True,
        )


def test_articles_come_from_the_hub_once(tmp_path: Path) -> None:
    path = tmp_path / "files" / DATASET_FILE
    path.parent.mkdir(parents=True)
    table = pyarrow.table({"article": ARTICLES, "highlights": ["short"] * len(ARTICLES)})
    parquet.write_table(table, path, row_group_size=100)
    hub = LocalHub()
    hub.repositories[DATASET] = Repository({COMMIT: tmp_path / "files"}, COMMIT)
    with serving(hub):
        gather = Gatherer(hub.endpoint, tmp_path / "hf")
        first = gather()
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout) == [ARTICLES[:400], ARTICLES[400:408]]
    assert hub.downloads(path.name) == [0]
    again = gather(HF_HUB_OFFLINE="1")  # from its cache
    assert again.stdout == first.stdout


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_missing_dataset_is_refused_with_the_remedy(tmp_path: Path, offline: str) -> None:
    with serving(LocalHub()) as hub:
        result = Gatherer(hub.endpoint, tmp_path)(HF_HUB_OFFLINE=offline)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {hub.endpoint} does not give {DATASET_FILE} of the dataset")
    assert "give local text with --calib-data FILE.jsonl" in line


def test_no_held_out_text_was_calibrated_on(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "a.jsonl", ["one", "two", "one", "three", "four", "five"])
    texts = gather_texts(TextOptions(path, calib_samples=2, eval_samples=2))
    assert texts.calibration == ["one", "two"]
    assert texts.held_out == ["three", "four"]
    other = write_texts(tmp_path / "b.jsonl", ["two", "six"])
    texts = gather_texts(TextOptions(path, calib_samples=6, eval_data=other))
    assert texts.held_out == ["six"]


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    """JSON may hold U+2028 and U+0085 unescaped, which str.splitlines treats as line ends."""
    path = tmp_path / "a.jsonl"
    texts = ["a\u2028b", "c\x85d", "e\u2029f"]
    path.write_bytes(
        "\r\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in texts).encode()
    )
    assert read_texts(path) == texts


@pytest.mark.parametrize(
    "line",
    [
        b"", b"text", b"{}", b"[]", b"null", b'"text"', b'{"text": 1}', b'{"text": null}',
        b'{"text": ""}', b'{"text": " \\n"}', b'{"text": "\\ud800"}', b'{"text": "\xff"}',
        b'{"text": "cut', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "good"}\n')
    with pytest.raises(BuildError, match=r"bad\.jsonl:2 must be a JSON object whose \"text\""):
        read_texts(path)


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    for name, words in (
        ("empty.jsonl", "has no text"),
        ("none", "is not a file"),
        ("", "is not a file"),
    ):
        with pytest.raises(BuildError, match=words):
            read_texts(tmp_path / name)


def test_too_few_texts_are_refused(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "a.jsonl", ["one", "two", "three", "one"])
    bad = {
        r"has 4 texts, --calib-samples asks for 512; give more text": TextOptions(path),
        r"a\.jsonl has no text that was not calibrated on": TextOptions(path, calib_samples=3),
        r"b\.jsonl has no text that was not calibrated on": TextOptions(
            path, calib_samples=2, eval_data=write_texts(tmp_path / "b.jsonl", ["two", "one"])
        ),
    }
    for words, options in bad.items():
        with pytest.raises(BuildError, match=words):
            gather_texts(options)
