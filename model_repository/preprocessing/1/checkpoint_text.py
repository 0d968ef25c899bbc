"""A checkpoint's tokenizer and chat templates, loaded as this room serves them.

The build loads every checkpoint through `load_checkpoint_text` too, so that this room can
serve everything that the build accepts. This module needs neither Triton nor an engine.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from chat_template import ChatTemplate, TemplateFault
from prompt_encoder import PromptEncoder, TokenizerFault
from tokenizer_files import (
    CONFIG,
    TEMPLATE,
    TEMPLATE_FOLDER,
    TOKENS_MAP,
    TokenizerFilesError,
    read_tokenizer_files,
)

TOKENIZER = "tokenizer.json"
# The files that `load_checkpoint_text` reads; all but tokenizer.json are optional.
FILES_READ = (TOKENIZER, CONFIG, TOKENS_MAP, TEMPLATE)
FOLDERS_READ = (TEMPLATE_FOLDER,)  # of *.jinja


class CheckpointTextError(ValueError):
    """The tokenizer or a chat template cannot be served; names file, fault and remedy."""


@dataclass(frozen=True)
class CheckpointText:
    """`template` is None for a checkpoint without one, which can only serve raw prompts."""

    encoder: PromptEncoder
    template: ChatTemplate | None


def load_checkpoint_text(
    folder: Path, bos_token_id: int, end_token_ids: Collection[int]
) -> CheckpointText:
    """Load `FILES_READ` and `FOLDERS_READ` from a folder. `ids` come from its config files.

    Raises `CheckpointTextError` for anything that is wrong with the files.
    """
    try:
        files = read_tokenizer_files(folder)
        template = ChatTemplate(folder / CONFIG) if files.templates else None
    except TokenizerFilesError as error:
        raise CheckpointTextError(str(error)) from None
    except TemplateFault as error:
        raise CheckpointTextError(
            f"the chat template of {folder} cannot be used: {error}; correct it, or remove it to "
            "serve raw prompts alone"
        ) from None
    try:
        encoder = PromptEncoder(
            folder / TOKENIZER,
            bos_token_id,
            end_token_ids,
            files.special_tokens | files.control_tokens,
            template.literals if template else "",
        )
    except TokenizerFault as error:
        raise CheckpointTextError(
            f"{folder / TOKENIZER} cannot be used: {error}; give a checkpoint whose tokenizer.json "
            "the tokenizers library can read"
        ) from None
    return CheckpointText(encoder, template)
