"""The prompts of `reference_prompts.json` as token ids, by a checkpoint's own tokenizer.

Rendered with plain Jinja and tokenizers, as transformers does it, and by no code of the server:
whether its preprocessing makes the same tokens is a thing to be verified.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from build_console import BuildError, say
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from json_document import read_json
from llama_config import LlamaConfig
from tokenizers import Tokenizer

PROMPTS = Path(__file__).with_name("reference_prompts.json")


@dataclass(frozen=True)
class Prompt:
    """One prompt; with `messages` it is a chat, and `text` is what the template made of it."""

    name: str
    messages: list[dict[str, str]] | None
    text: str
    ids: list[int]


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer.json; raises `BuildError`."""
    path = folder / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise BuildError(f"{path} cannot be read ({error}); fetch the tokenizer again") from None


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of token ids without special tokens."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
    return text


def template_source(checkpoint: Path) -> str | None:
    """The chat template, None where a checkpoint has none; raises `BuildError`."""
    beside = checkpoint / "chat_template.jinja"
    if beside.exists():
        return beside.read_text(encoding="utf-8")
    source = read_json(checkpoint / "tokenizer_config.json").get("chat_template")
    if source is not None and not isinstance(source, str):
        raise BuildError(
            f"{checkpoint / 'tokenizer_config.json'}: chat_template is a {type(source).__name__}, "
            "allowed is one template"
        )
    return source


def is_dated(source: str | None) -> bool:
    """Whether a template writes today's date: its prompts are others tomorrow."""
    return source is not None and "strftime_now" in source


def render_prompts(checkpoint: Path, config: LlamaConfig, most: int | None) -> list[Prompt]:
    """The first `most` prompts; without a chat template those of plain text alone."""
    tokenizer = load_tokenizer(checkpoint)
    source = template_source(checkpoint)
    entries = json.loads(PROMPTS.read_text(encoding="utf-8"))
    if source is None:
        say(f"{checkpoint} has no chat template: the prompts are those of plain text alone")
        entries = [entry for entry in entries if "text" in entry]
    prompts = []
    for entry in entries[:most]:
        messages = entry.get("messages")
        text = _rendered(checkpoint, source, messages) if source and messages else entry["text"]
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        ids = ids if ids[:1] == [config.bos_token_id] else [config.bos_token_id, *ids]
        if max(ids) >= config.vocab_size:
            raise BuildError(
                f"{checkpoint / 'tokenizer.json'} gives the id {max(ids)}, allowed is below the "
                f"model's vocab_size {config.vocab_size}; fetch the tokenizer of this checkpoint"
            )
        prompts.append(Prompt(entry["name"], messages, text, ids))
    return prompts


def _rendered(checkpoint: Path, source: str, messages: list[dict[str, str]]) -> str:
    special = read_json(checkpoint / "tokenizer_config.json")
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    tokens = {name: _content(special[name]) for name in names if special.get(name)}
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        template = environment.from_string(source)
        # transformers names tools and documents also where there are none.
        return template.render(
            messages=messages, tools=None, documents=None, add_generation_prompt=True, **tokens
        )
    except TemplateError as error:
        raise BuildError(
            f"the chat template of {checkpoint} cannot be rendered ({error}); fetch it again"
        ) from None


def _content(token: str | dict[str, Any]) -> str:
    return token["content"] if isinstance(token, dict) else token
