"""A checkpoint folder's chat templates and special tokens, as transformers reads them.

Files, each of them optional: `tokenizer_config.json`, `special_tokens_map.json`,
`chat_template.jinja` and `additional_chat_templates/NAME.jinja`. Templates in separate files
replace those of tokenizer_config.json (transformers, tokenization_utils_base.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = "tokenizer_config.json"
TOKENS_MAP = "special_tokens_map.json"
TEMPLATE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
DEFAULT = "default"
TOKEN_NAMES = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
LFS_POINTER = "version https://git-lfs"
MEND = "correct it, or fetch it again"
TOKEN_LISTS = ("additional_special_tokens", "extra_special_tokens")


class TokenizerFilesError(ValueError):
    """A file cannot be used; one sentence names the file, the fault and what must be there."""


@dataclass(frozen=True)
class TokenizerFiles:
    """`templates`: name -> Jinja source, empty for a checkpoint without any. `variables`: the
    special tokens by name (`bos_token` and its like), as templates are given them.
    `special_tokens`: every text that the files call a special token; `control_tokens`: what they
    call a control token of chats beside those."""

    templates: dict[str, str]
    variables: dict[str, str | list[str]]
    special_tokens: frozenset[str]
    control_tokens: frozenset[str]


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read a folder; raises `TokenizerFilesError`."""
    config, older = _object(folder / CONFIG), _object(folder / TOKENS_MAP)
    # As in transformers, which reads the older map only beside an equally old config.
    named = config if "added_tokens_decoder" in config else config | older
    variables = _variables(named, folder / CONFIG)
    return TokenizerFiles(
        _file_templates(folder) or _config_templates(config, folder / CONFIG),
        variables,
        _special_tokens(variables, named, folder / CONFIG),
        _control_tokens(named, folder / CONFIG),
    )


def _variables(named: dict[str, Any], path: Path) -> dict[str, str | list[str]]:
    found: dict[str, str | list[str]] = {}
    for key, value in named.items():
        where = f"{path}: {key}"
        if value is None:
            continue
        if key in TOKEN_NAMES or (key.endswith("_token") and isinstance(value, str | dict)):
            found[key] = _token(value, where)
        elif key == "extra_special_tokens" and isinstance(value, dict):
            found |= {name: _token(token, where) for name, token in value.items()}
        elif key in TOKEN_LISTS:
            found[key] = [_token(token, where) for token in _list(value, where)]
    return found


def _special_tokens(
    variables: dict[str, str | list[str]], named: dict[str, Any], path: Path
) -> frozenset[str]:
    found: set[str] = set()
    for value in variables.values():
        found |= {value} if isinstance(value, str) else set(value)
    table = named.get("added_tokens_decoder")
    for token in table.values() if isinstance(table, dict) else ():
        if isinstance(token, dict) and token.get("special") is True:
            found.add(_token(token, f"{path}: a token of added_tokens_decoder"))
    return frozenset(found - {""})


def _control_tokens(named: dict[str, Any], path: Path) -> frozenset[str]:
    where = f"{path}: chat_control_tokens"
    listed = _list(named.get("chat_control_tokens") or [], where)
    return frozenset(_token(token, where) for token in listed) - {""}


def _file_templates(folder: Path) -> dict[str, str]:
    paths = {path.stem: path for path in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))}
    if (folder / TEMPLATE).is_file():
        paths.setdefault(DEFAULT, folder / TEMPLATE)
    return {name: _text(path) for name, path in paths.items()}


def _config_templates(config: dict[str, Any], path: Path) -> dict[str, str]:
    """One template, a list of `{"name", "template"}` or an object of names, or none."""
    given = config.get("chat_template")
    if given is None:
        return {}
    if isinstance(given, str):
        return {DEFAULT: given}
    if isinstance(given, list) and all(isinstance(entry, dict) for entry in given):
        given = {entry.get("name"): entry.get("template") for entry in given}
    if isinstance(given, dict) and all(isinstance(text, str) for text in (*given, *given.values())):
        return dict(given)
    raise TokenizerFilesError(
        f"{path}: chat_template is {given!r:.80}, must be a template or a list of objects with "
        "name and template; write it so, or remove it to serve raw prompts alone"
    )


def _token(value: object, where: str) -> str:
    """The text of a token that is spelled as a text or as an AddedToken's object."""
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise TokenizerFilesError(
            f"{where} is {value!r:.80}, must be a string or an object with content"
        )
    return text


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise TokenizerFilesError(f"{where} is {value!r:.80}, must be a list of tokens")
    return value


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise TokenizerFilesError(f"{path} is not JSON ({error}); {MEND}") from None
    if not isinstance(value, dict):
        raise TokenizerFilesError(f"{path} holds {value!r:.80}, must be an object; {MEND}")
    return value


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerFilesError(f"{path} cannot be read ({error}); {MEND}") from None
    if text.startswith(LFS_POINTER):
        raise TokenizerFilesError(
            f"{path} is a git LFS pointer, not the file; run 'git lfs pull' in {path.parent}"
        )
    return text
