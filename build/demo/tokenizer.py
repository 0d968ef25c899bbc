"""The demo checkpoint's tokenizer and chat template: Llama 3.1's, with a small vocabulary.

The same pieces in the same order as Meta's tokenizer.json: byte-level BPE with `ignore_merges`,
the split pattern of Llama 3, a template that adds the begin-of-text token, and the 256 special
tokens in Llama 3.1's order at the end of the vocabulary.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from host.console import BuildError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from demo import corpus

VOCAB_SIZE = 2048
SPECIAL_COUNT = 256

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# What Llama 3.1's template writes, tools and tool results included. A Jinja program of our own with
# the prompt sentences of Llama 3.1's and the filters that it uses; both give the same ids.
CHAT_TEMPLATE = """\
{%- set date_string = date_string | default("26 Jul 2024") -%}
{%- macro turn(role) -%}
    {{- '<|start_header_id|>' ~ role ~ '<|end_header_id|>\\n\\n' -}}
{%- endmacro -%}
{%- set rest = messages -%}
{%- set system = '' -%}
{%- if rest[0]['role'] == 'system' -%}
    {%- set system = rest[0]['content'] | trim -%}
    {%- set rest = rest[1:] -%}
{%- endif -%}
{{- bos_token ~ turn('system') -}}
{%- if tools is not none -%}{{- 'Environment: ipython\\n' -}}{%- endif -%}
{{- 'Cutting Knowledge Date: December 2023\\nToday Date: ' ~ date_string ~ '\\n\\n' -}}
{{- system ~ '<|eot_id|>' -}}
{%- if tools is not none -%}
    {%- if not rest -%}{{- raise_exception('There is no message for the tools.') -}}{%- endif -%}
    {{- turn('user') -}}
    {{- 'Given the following functions, please respond with a JSON for a function call ' -}}
    {{- 'with its proper arguments that best answers the given prompt.\\n\\n' -}}
    {{- 'Respond in the format {"name": function name, "parameters": ' -}}
    {{- 'dictionary of argument name and its value}.Do not use variables.\\n\\n' -}}
    {%- for tool in tools -%}{{- (tool | tojson(indent=4)) ~ '\\n\\n' -}}{%- endfor -%}
    {{- (rest[0]['content'] | trim) ~ '<|eot_id|>' -}}
    {%- set rest = rest[1:] -%}
{%- endif -%}
{%- for message in rest -%}
    {%- if 'tool_calls' in message -%}
        {%- if message.tool_calls | length > 1 -%}{{- raise_exception('One call.') -}}{%- endif -%}
        {%- set call = message.tool_calls[0].function -%}
        {{- turn('assistant') ~ '{"name": "' ~ call.name ~ '", "parameters": ' -}}
        {{- (call.arguments | tojson) ~ '}' -}}
    {%- elif message.role in ('tool', 'ipython') -%}
        {%- set result = message.content -%}
        {%- if result is mapping or result is iterable -%}
            {%- set result = result | tojson -%}
        {%- endif -%}
        {{- turn('ipython') ~ result -}}
    {%- else -%}
        {{- turn(message.role) ~ (message.content | trim) -}}
    {%- endif -%}
    {{- '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- turn('assistant') -}}{%- endif -%}
"""


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

    Raises `BuildError` if the text is too small to fill the vocabulary.
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
        raise BuildError(
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
