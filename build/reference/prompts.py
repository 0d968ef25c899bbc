"""The prompts of `prompts.json` as token ids, by a checkpoint's own tokenizer.

Rendered with plain Jinja and tokenizers, as transformers does it, and not by the server's code:
that its preprocessing makes the same tokens has to be verified.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from checkpoints.llama_config import LlamaConfig
from host.console import BuildError, say
from host.json_document import MEND, read_json
from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

PROMPTS = Path(__file__).with_name("prompts.json")


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
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise BuildError(f"{path} cannot be read ({error}); {MEND}") from None
    tokenizer.no_truncation()  # left by training; transformers ignores both in a prompt
    tokenizer.no_padding()
    return tokenizer


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of token ids without special tokens."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
    return text


def template_source(checkpoint: Path) -> str | None:
    """The chat template for messages without tools; None if the checkpoint has none. Raises
    `BuildError`."""
    beside = checkpoint / "chat_template.jinja"
    if beside.exists():
        return beside.read_text(encoding="utf-8")
    path = checkpoint / "tokenizer_config.json"
    source = read_json(path).get("chat_template")
    if isinstance(source, list) and all(isinstance(entry, dict) for entry in source):
        source = {entry.get("name"): entry.get("template") for entry in source}
    if isinstance(source, dict):
        source = source.get("default")
    if source is not None and not isinstance(source, str):
        raise BuildError(
            f"{path}: chat_template must be a template or a list of objects with name and "
            f"template, not a {type(source).__name__}"
        )
    return source


def is_dated(source: str | None) -> bool:
    """Whether a template writes today's date, so that its prompts change tomorrow."""
    return source is not None and "strftime_now" in source


def render_prompts(checkpoint: Path, config: LlamaConfig, most: int | None) -> list[Prompt]:
    """The first `most` prompts; without a chat template only those of plain text."""
    tokenizer = load_tokenizer(checkpoint)
    source = template_source(checkpoint)
    entries = json.loads(PROMPTS.read_text(encoding="utf-8"))
    if source is None:
        say(f"{checkpoint} has no chat template: only the prompts of plain text are used")
        entries = [entry for entry in entries if "text" in entry]
    prompts = []
    for entry in entries[:most]:
        messages = entry.get("messages")
        text = _rendered(checkpoint, source, messages) if source and messages else entry["text"]
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        if starts_with_bos(tokenizer, config.bos_token_id) and ids[:1] != [config.bos_token_id]:
            ids = [config.bos_token_id, *ids]
        if max(ids) >= config.vocab_size:
            raise BuildError(
                f"{checkpoint / 'tokenizer.json'} gives the id {max(ids)}, but ids must be "
                f"below the model's vocab_size {config.vocab_size}; fetch its own tokenizer"
            )
        prompts.append(Prompt(entry["name"], messages, text, ids))
    return prompts


def starts_with_bos(tokenizer: Any, bos_token_id: int) -> bool:
    """Whether the tokenizer puts BOS before a text; if not, the model was trained without it."""
    return bos_token_id in tokenizer.encode("a", add_special_tokens=True).ids[:-1]


class _Generation(Extension):
    """`{% generation %}`, which marks words for training and writes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller: Any) -> str:
        text: str = caller()
        return text


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.globals["raise_exception"] = _raise
    return environment


def _raise(message: str) -> None:
    raise TemplateError(message)


def _rendered(checkpoint: Path, source: str, messages: list[dict[str, str]]) -> str:
    try:
        template = _environment().from_string(source)
        # transformers passes tools and documents even if there are none.
        return template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **_special_tokens(checkpoint),
        )
    except TemplateError as error:
        raise BuildError(
            f"the chat template of {checkpoint} cannot be rendered ({error}); correct it, or "
            "remove it to serve only raw prompts"
        ) from None


def _special_tokens(checkpoint: Path) -> dict[str, str]:
    special = read_json(checkpoint / "tokenizer_config.json")
    older = checkpoint / "special_tokens_map.json"
    if "added_tokens_decoder" not in special and older.exists():
        special = {**special, **read_json(older)}  # as transformers does
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    return {name: _content(special[name]) for name in names if special.get(name)}


def _content(token: str | dict[str, Any]) -> str:
    return token["content"] if isinstance(token, dict) else token
