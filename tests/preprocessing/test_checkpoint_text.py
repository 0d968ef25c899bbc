"""Which tokenizers and chat templates room 1 loads, compared with transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_messages import InvalidMessages
from checkpoint_text import CheckpointText, CheckpointTextError, load_checkpoint_text
from request_preparation import InvalidPrompt, RequestPreparation
from transformers import PreTrainedTokenizerFast

from tests.support.paths import DEMO_CHECKPOINT

IDS = json.loads((DEMO_CHECKPOINT / "config.json").read_text())
BOS, ENDS = IDS["bos_token_id"], IDS["eos_token_id"]
USER = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
PLAIN = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
WITH_TOOLS = "{{ bos_token }}Tools: {{ tools[0].function.name }}"


def checkpoint(folder: Path, template: object = None, **config: Any) -> Path:
    """The demo's tokenizer with another tokenizer_config.json."""
    given = json.loads((DEMO_CHECKPOINT / "tokenizer_config.json").read_text())
    given |= {"chat_template": template, **config}
    for name in ("tokenizer.json", "special_tokens_map.json"):
        shutil.copy(DEMO_CHECKPOINT / name, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(given))
    return folder


def loaded(folder: Path) -> CheckpointText:
    return load_checkpoint_text(folder, BOS, ENDS)


def ours(folder: Path, tools: list[dict[str, Any]] | None = None) -> list[int]:
    text = loaded(folder)
    assert text.template is not None
    return text.encoder.encode_rendered(text.template.render(USER, tools))


def theirs(folder: Path, tools: list[dict[str, Any]] | None = None) -> list[int]:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    ids: list[int] = tokenizer.apply_chat_template(
        USER, tools=tools, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return ids


@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("spelled", ["list", "object", "files"])
def test_named_templates_are_chosen_as_transformers_does(
    spelled: str, tools: Any, tmp_path: Path
) -> None:
    named = {"default": PLAIN, "tool_use": WITH_TOOLS, "rag": "{{ bos_token }}rag"}
    listed = [{"name": name, "template": source} for name, source in named.items()]
    given: dict[str, Any] = {"list": listed, "object": named, "files": "unused"}
    checkpoint(tmp_path, given[spelled])
    if spelled == "files":
        (tmp_path / "chat_template.jinja").write_text(named.pop("default"))
        (tmp_path / "additional_chat_templates").mkdir()
        for name, source in named.items():
            (tmp_path / "additional_chat_templates" / f"{name}.jinja").write_text(source)
    assert ours(tmp_path, tools) == theirs(tmp_path, tools)


def test_without_a_default_template_messages_are_refused_by_name(tmp_path: Path) -> None:
    checkpoint(tmp_path, [{"name": "tool_use", "template": WITH_TOOLS}])
    assert ours(tmp_path, TOOLS) == theirs(tmp_path, TOOLS)
    with pytest.raises(
        InvalidMessages, match=r"no chat template of the name 'default'.*text_input"
    ):
        ours(tmp_path)


def test_without_any_template_raw_prompts_are_served(tmp_path: Path) -> None:
    engine = {
        "model": {"vocab_size": IDS["vocab_size"], "bos_token_id": BOS, "eos_token_ids": ENDS},
        "limits": {"max_seq_len": 64},
    }
    (checkpoint(tmp_path) / "engine.json").write_text(json.dumps(engine))
    room = RequestPreparation(tmp_path)
    limit = {"REQUEST_OUTPUT_LEN": np.array([[4]], np.int32)}
    raw = room.prepare({"QUERY": np.array([[b"Hi"]], object), **limit}, {"INPUT_ID"})
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert raw["INPUT_ID"].tolist() == [tokenizer("Hi")["input_ids"]]
    messages = np.array([[json.dumps(USER).encode()]], object)
    with pytest.raises(InvalidPrompt, match=r"has no chat template; send .* as text_input"):
        room.prepare({"MESSAGES": messages, **limit}, {"INPUT_ID"})


@pytest.mark.parametrize("where", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("token", ["<|eot_id|>", {"content": "<|eot_id|>", "lstrip": False}])
def test_special_tokens_are_read_in_every_spelling(token: Any, where: str, tmp_path: Path) -> None:
    checkpoint(tmp_path, PLAIN)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["eos_token"]
    if where == "special_tokens_map.json":
        del config["added_tokens_decoder"]  # else transformers does not read the map
    given: dict[str, Any] = {"tokenizer_config.json": config, "special_tokens_map.json": {}}
    given[where]["eos_token"] = (
        token if isinstance(token, str) else {**token, "__type": "AddedToken"}
    )
    for name, content in given.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert ours(tmp_path) == theirs(tmp_path)
    assert ours(tmp_path)[-1] in ENDS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"template": "{{ messages"}, "the chat template of .* unexpected end of template"),
        ({"template": "{{ 1 | nothing }}"}, "No filter named 'nothing'.*remove it to serve raw"),
        ({"template": "{% include 'tools.jinja' %}"}, "'default' needs another file"),
        ({"template": 7}, "chat_template is 7, must be a template"),
        ({"eos_token": 7}, "eos_token is 7, must be a string or an object with content"),
        ({"additional_special_tokens": 7}, "additional_special_tokens is 7, must be a list"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointTextError, match=words) as error:
        loaded(checkpoint(tmp_path, **{"template": PLAIN, **change}))
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "\udc80"])
def test_a_broken_file_is_one_sentence(name: str, content: str, tmp_path: Path) -> None:
    checkpoint(tmp_path, PLAIN)
    (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointTextError, match=name):
        loaded(tmp_path)


def test_a_template_that_no_request_takes_may_be_broken(tmp_path: Path) -> None:
    """transformers reads it when it is asked for by name, which no request here does."""
    templates = {"default": PLAIN, "rag": "{% if %}"}
    given = [{"name": name, "template": template} for name, template in templates.items()]
    loaded(checkpoint(tmp_path, given))
    assert ours(tmp_path) == theirs(tmp_path)
