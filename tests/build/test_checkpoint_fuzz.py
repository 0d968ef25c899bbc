"""Any value in any place of a checkpoint's small files is accepted or refused in one sentence."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints.check import check_content
from checkpoints.llama_config import load_llama_config
from checkpoints.text import check_text
from engines.token_table import read_token_table
from host.console import BuildError

from tests.support.small_engines import write_checkpoint

ABSENT = object()
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 10**9, 10**25, 1.5, float("nan"), float("inf"), "", "x", "4096",
    "\ud800", "\0", "../x", "a" * 3000, [], [1], [[]], ["x"], {}, {"a": 1}, {"": []}, [None],
    [True], [-1], [1.5], [10**30], ABSENT,
]  # fmt: skip
FILES = (
    "config.json", "generation_config.json", "hf_quant_config.json", "tokenizer.json",
    "tokenizer_config.json", "model.safetensors.index.json", "model-00001-of-00003.safetensors",
)  # fmt: skip
ROUNDS = 40  # for each file; thousands of other seeds were tried
LONGEST = 600


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("fuzz") / "checkpoint", shard_bytes=60_000)
    config = {
        "chat_template": "{{ bos_token }}{{ messages[0].content }}",
        "bos_token": "<|0|>",
        "added_tokens_decoder": {"0": {"content": "<|0|>", "special": True}},
        "additional_special_tokens": ["<|1|>"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield before
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = list(enumerate(value))[:5]
    for key, inner in items:
        yield from places(inner, (*before, key))


def changed(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return None if value is ABSENT else value
    result = inner = copy.deepcopy(document)
    for key in place[:-1]:
        inner = inner[key]
    if value is ABSENT:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return result


def read_all(folder: Path) -> None:
    """Read all that a build reads before it writes."""
    llama = load_llama_config(folder)
    check_text(folder, llama)
    check_content(folder)
    read_token_table(folder / "tokenizer.json", llama.vocab_size)


@pytest.mark.parametrize("name", FILES)
def test_any_value_is_accepted_or_refused_in_one_sentence(checkpoint: Path, name: str) -> None:
    path, choose = checkpoint / name, random.Random(name)
    original = path.read_bytes()
    weights = name.endswith(".safetensors")
    end = 8 + int.from_bytes(original[:8], "little") if weights else len(original)
    document = json.loads(original[8 * weights : end])
    refused = 0
    for _ in range(ROUNDS):
        place, value = choose.choice([*places(document)]), choose.choice(VALUES)
        text = json.dumps(changed(document, place, value)).encode()
        if choose.random() < 0.1:
            text = text[: choose.randrange(len(text))]
        head = len(text).to_bytes(8, "little") if weights else b""
        path.write_bytes(head + text + original[end:])
        try:
            read_all(checkpoint)
        except BuildError as error:
            sentence = str(error)
        else:
            continue
        refused += 1
        assert "\n" not in sentence, (place, value)
        assert len(sentence) < LONGEST, (place, value)
    path.write_bytes(original)
    assert refused
    read_all(checkpoint)
