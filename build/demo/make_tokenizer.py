"""Train the demo checkpoint's tokenizer: Llama 3.1's layout with a small vocabulary.

The same pieces in the same order as Meta's tokenizer.json: byte-level BPE with `ignore_merges`,
the split pattern of Llama 3, a template that adds the begin-of-text token, and the 256 special
tokens in Llama 3.1's order at the end of the vocabulary.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from demo import corpus
from demo.chat_template import CHAT_TEMPLATE

VOCAB_SIZE = 2048
SPECIAL_COUNT = 256

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def special_tokens() -> list[str]:
    """Llama 3.1's 256 special tokens in the order of their ids."""
    named = [
        "begin_of_text",
        "end_of_text",
        "reserved_special_token_0",
        "reserved_special_token_1",
        "finetune_right_pad_id",
        "reserved_special_token_2",
        "start_header_id",
        "end_header_id",
        "eom_id",
        "eot_id",
        "python_tag",
    ]
    named += [f"reserved_special_token_{index}" for index in range(3, 248)]
    return [f"<|{name}|>" for name in named]


def train_tokenizer(document_count: int = 20_000) -> Tokenizer:
    """Train on the first documents of the training text; deterministic.

    Raises ValueError when the text is too small to fill the vocabulary.
    """
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE - SPECIAL_COUNT,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        special_tokens=[],
    )
    texts = itertools.islice(corpus.documents(corpus.TRAIN_SEED), document_count)
    tokenizer.train_from_iterator((_without_specials(text) for text in texts), trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE - SPECIAL_COUNT:
        raise ValueError(
            f"the text yields {tokenizer.get_vocab_size()} tokens, not {VOCAB_SIZE - SPECIAL_COUNT}"
        )
    specials = special_tokens()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in specials])
    bos = (specials[0], VOCAB_SIZE - SPECIAL_COUNT)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{bos[0]} $A", pair=f"{bos[0]} $A {bos[0]}:1 $B:1", special_tokens=[bos]
            ),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _without_specials(text: str) -> str:
    """Merges must not span control tokens, so they become blank lines."""
    for name in special_tokens()[:11]:
        text = text.replace(name, "\n\n")
    return text


def tokenizer_config() -> dict[str, Any]:
    """The content of tokenizer_config.json, keys as in Llama 3.1's."""
    added = {
        str(VOCAB_SIZE - SPECIAL_COUNT + index): {
            "content": name,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for index, name in enumerate(special_tokens())
    }
    return {
        "added_tokens_decoder": added,
        "bos_token": corpus.BOS,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": True,
        "eos_token": corpus.EOT,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 2048,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def special_tokens_map() -> dict[str, Any]:
    """The content of special_tokens_map.json."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "bos_token": {"content": corpus.BOS, **flags},
        "eos_token": {"content": corpus.EOT, **flags},
    }


def write_tokenizer(directory: Path) -> None:
    """Train and write tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    directory.mkdir(parents=True, exist_ok=True)
    train_tokenizer().save(str(directory / "tokenizer.json"))
    contents = {
        "tokenizer_config.json": tokenizer_config(),
        "special_tokens_map.json": special_tokens_map(),
    }
    for name, content in contents.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (directory / name).write_text(text, encoding="utf-8")


def main() -> int:
    """Command line: `python -m demo.make_tokenizer --output DIR`, from `build/`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    arguments = parser.parse_args()
    try:
        write_tokenizer(arguments.output)
    except (OSError, ValueError) as error:
        print(f"make_tokenizer: {error}", file=sys.stderr)
        return 1
    print(f"tokenizer: {VOCAB_SIZE} tokens in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
