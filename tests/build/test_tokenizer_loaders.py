"""The truncation and padding that training left in tokenizer.json change no text here: transformers
ignores both."""

from __future__ import annotations

import ast
import json
import random
from pathlib import Path
from typing import Any

import pytest
from checkpoint_text import load_checkpoint_text
from checkpoints.llama_config import load_llama_config
from quantization import texts as calibration_data
from reference.prompts import load_tokenizer, render_prompts
from traffic.prompts import PromptWriter
from transformers import PreTrainedTokenizerFast

from tests.preprocessing.test_checkpoint_text import BOS, ENDS, IDS, checkpoint
from tests.support.paths import DEMO_CHECKPOINT, ROOT

TEMPLATE = json.loads((DEMO_CHECKPOINT / "tokenizer_config.json").read_text())["chat_template"]
# These modules load tokenizers; all others get one from them.
LOADERS = {
    "model_repository/preprocessing/1/prompt_encoder.py",
    "build/reference/prompts.py",
    "loadtest/traffic/prompts.py",
}
TRUNCATIONS = [
    {"direction": side, "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    for side in ("Right", "Left")
]
PADDINGS = [
    {"strategy": strategy, "direction": "Left", "pad_to_multiple_of": multiple, "pad_id": 1796,
     "pad_type_id": 0, "pad_token": "<|finetune_right_pad_id|>"}
    for strategy, multiple in (({"Fixed": 64}, None), ("BatchLongest", 16))
]  # fmt: skip
LEFT_BEHIND = [*({"truncation": t} for t in TRUNCATIONS), *({"padding": p} for p in PADDINGS)]
TEXT = "The quick brown fox jumps over the lazy dog, again and again and again."
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT}]


@pytest.fixture(params=LEFT_BEHIND, ids=["right", "left", "fixed", "multiple"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The demo's tokenizer with what training left behind."""
    checkpoint(tmp_path, TEMPLATE)
    document = json.loads((tmp_path / "tokenizer.json").read_text()) | request.param
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    (tmp_path / "config.json").write_text((DEMO_CHECKPOINT / "config.json").read_text())
    return tmp_path


def test_room_1(folder: Path) -> None:
    transformers = PreTrainedTokenizerFast.from_pretrained(folder)
    text = load_checkpoint_text(folder, BOS, ENDS)
    assert text.encoder.encode_trusted(TEXT) == transformers(TEXT)["input_ids"]
    expected = transformers.apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_dict=False
    )
    assert text.template is not None
    assert text.encoder.encode_rendered(text.template.render(MESSAGES)) == expected
    poisoned = text.template.render([{"role": "user", "content": TEXT + "<|eot_id|>"}])
    assert len(text.encoder.encode_rendered(poisoned)) > 25
    assert text.encoder.encode_plain(TEXT) == expected_plain(transformers)


def expected_plain(transformers: Any) -> list[int]:
    ids: list[int] = transformers(TEXT, add_special_tokens=False)["input_ids"]
    return ids


def test_the_prompts_of_the_reference(folder: Path) -> None:
    transformers = PreTrainedTokenizerFast.from_pretrained(folder)
    for prompt in render_prompts(folder, load_llama_config(folder), None):
        if prompt.messages is None:
            assert prompt.ids == transformers(prompt.text)["input_ids"]
        else:
            assert prompt.ids == transformers.apply_chat_template(
                prompt.messages, add_generation_prompt=True, return_dict=False
            )


def test_the_builds_tokenizer(folder: Path) -> None:
    transformers = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode(TEXT, add_special_tokens=False).ids == expected_plain(transformers)


def test_the_load_test(folder: Path) -> None:
    writer = PromptWriter(folder / "tokenizer.json")
    transformers = PreTrainedTokenizerFast.from_pretrained(folder)
    text = writer.prompt(40, random.Random(0))
    assert len(transformers(text)["input_ids"]) == 40
    assert writer.count(TEXT) == len(expected_plain(transformers))


def test_calibration_takes_the_beginning_of_a_text(folder: Path) -> None:
    transformers = PreTrainedTokenizerFast.from_pretrained(folder)
    expected = transformers(TEXT)["input_ids"]
    encode = calibration_data.encode
    assert encode(folder, [TEXT], 9, IDS["vocab_size"]) == [expected[:9]]
    assert encode(folder, [TEXT], 999, IDS["vocab_size"]) == [expected]


def test_nobody_else_loads_a_tokenizer() -> None:
    found = set()
    for top in ("build", "client", "loadtest", "model_repository", "tests/with_gpu"):
        for path in (ROOT / top).rglob("*.py"):
            if path.is_relative_to(ROOT / "build" / "out"):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Attribute)
                    and node.attr in ("from_file", "from_str", "from_buffer")
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "Tokenizer"
                ):
                    found.add(str(path.relative_to(ROOT)))
    assert found == LOADERS
