"""Checks with room 1's own code that it can serve a checkpoint's tokenizer and chat templates.

So the server starts with everything that the build accepts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import host.room_paths  # noqa: F401
from chat_messages import InvalidMessages, parse_messages, parse_tools
from chat_template import ChatTemplate
from checkpoint_text import (
    FILES_READ,
    FOLDERS_READ,
    TOKENIZER,
    CheckpointText,
    CheckpointTextError,
    load_checkpoint_text,
)
from host.console import BuildError
from host.json_document import read_json, shown
from prompt_encoder import PromptTooLong
from reference.prompts import load_tokenizer
from request_preparation import PreparationError, RequestPreparation
from token_text import TokenText
from tokenizer_files import read_tokenizer_files
from user_words import text_of

from checkpoints.llama_config import LlamaConfig

__all__ = [
    "FILES_READ",
    "FOLDERS_READ",
    "TOKENIZER",
    "check_rooms",
    "check_text",
    "read_tokenizer_files",
]

# Messages and tools. A template may insist on a system's turn, or be for tools alone.
WORD = "Hello"
USER = f'{{"role": "user", "content": "{WORD}"}}'
TRIALS = (
    (f"[{USER}]", "[]"),
    (f'[{{"role": "system", "content": "Be brief."}}, {USER}]', "[]"),
    (f"[{USER}]", '[{"type": "function", "function": {"name": "f", "parameters": {}}}]'),
)


def check_text(checkpoint: Path, llama: LlamaConfig) -> tuple[str, ...]:
    """Load the checkpoint's tokenizer and templates, render and encode a conversation.

    Returns notes, one sentence each. Raises `BuildError` with room 1's own message.
    """
    if not (checkpoint / TOKENIZER).is_file():
        raise BuildError(
            f"{checkpoint / TOKENIZER} does not exist; fetch the whole checkpoint, with its "
            "tokenizer"
        )
    document = read_json(checkpoint / TOKENIZER)  # refuses git LFS pointers and the like
    try:
        text = load_checkpoint_text(checkpoint, llama.bos_token_id, llama.eos_token_ids)
    except CheckpointTextError as error:
        raise BuildError(str(error)) from None
    _check_ids(checkpoint / TOKENIZER, document)
    if text.template is None:
        return (
            f"note: {checkpoint} has no chat template: `text_input` is served, `messages` will be "
            "refused",
        )
    ids = _render_trial(checkpoint, text, text.template)
    if max(ids) >= llama.vocab_size:
        raise BuildError(
            f"{checkpoint / TOKENIZER}: a conversation has the token id {max(ids)}, but all must "
            f"be below config.json's vocab_size {llama.vocab_size}; give the tokenizer that "
            "belongs to this checkpoint"
        )
    return ()


def _check_ids(path: Path, document: dict[str, Any]) -> None:
    """The library gives an added token the next free id, whatever its file says; rooms 2 and 3
    trust the file."""
    loaded = load_tokenizer(path.parent).get_added_tokens_decoder()
    ids = {token.content: token_id for token_id, token in loaded.items()}
    for added in document.get("added_tokens") or ():
        found = ids.get(added["content"], added["id"])
        if found != added["id"]:
            raise BuildError(
                f"{path}: the token {shown(added['content'])} has the id {added['id']}, but the "
                f"tokenizers library gives it {found}; give the tokenizer.json with which the "
                "model was trained"
            )


def _render_trial(checkpoint: Path, text: CheckpointText, template: ChatTemplate) -> list[int]:
    """The token ids of the first conversation that the template renders."""
    reason = ""
    for messages, tools in TRIALS:
        try:
            prompt = template.render(parse_messages(messages), parse_tools(tools))
            ids = text.encoder.encode_rendered(prompt)
        except (InvalidMessages, PromptTooLong, UnicodeError) as error:
            reason = reason or str(error)
            continue
        # Templates for lists of parts find no part in a plain text, and leave it out.
        if WORD.casefold() in text_of(prompt).casefold():
            return ids
        reason = reason or "its prompt leaves out what the user says"
    raise BuildError(
        f"the chat template of {checkpoint} renders no conversation: {reason}; correct it, or "
        "remove it to serve raw prompts only"
    )


def check_rooms(engine: Path) -> None:
    """Start rooms 1 and 3 on a finished engine's folder; raises `BuildError`."""
    try:
        RequestPreparation(engine)
        TokenText(engine / "token_bytes.npz")
    except PreparationError as error:
        raise BuildError(str(error)) from None
    except (OSError, ValueError, LookupError) as error:
        raise BuildError(
            f"{engine / 'token_bytes.npz'} cannot be read ({error}); compile the engine again with "
            "'make engine'"
        ) from None
