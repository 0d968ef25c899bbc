"""Which added tokens are control tokens, of whatever spelling: a template writes them, a user's
words never do. Everything else is encoded as transformers encodes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint_text import CheckpointText, load_checkpoint_text
from transformers import PreTrainedTokenizerFast
from user_words import RenderedPrompt, Words, concatenated

from tests.preprocessing.test_checkpoint_text import BOS, ENDS
from tests.support.paths import DEMO_CHECKPOINT

Document = dict[str, Any]
ID = 1900  # of a reserved token, whose place the tested ones take
TEMPLATE = "{{ bos_token }}%s{%% for m in messages %%}{{ m.content }} %s {%% endfor %%}"
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": True,
    "trim_offsets": False,
    "use_regex": True,
}


def checkpoint(
    folder: Path,
    template: str,
    edit: Callable[[Document], None] = lambda document: None,
    token: dict[str, Any] | None = None,
    **config: Any,
) -> tuple[CheckpointText, Any]:
    """The demo's tokenizer, with another token in the place of a reserved one; and transformers'
    own of the same folder."""
    document: Document = json.loads((DEMO_CHECKPOINT / "tokenizer.json").read_text())
    [reserved] = [one for one in document["added_tokens"] if one["id"] == ID]
    reserved |= token or {}
    edit(document)
    given = json.loads((DEMO_CHECKPOINT / "tokenizer_config.json").read_text())
    del given["added_tokens_decoder"]
    given |= {"chat_template": template, **config}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text(json.dumps(given))
    ends = [*ENDS, *config.get("ends", [])]
    return load_checkpoint_text(folder, BOS, ends), PreTrainedTokenizerFast.from_pretrained(folder)


def chat(text: CheckpointText, *contents: str) -> list[int]:
    assert text.template is not None
    messages = [{"role": "user", "content": content} for content in contents]
    return text.encoder.encode_rendered(text.template.render(messages))


def check(text: CheckpointText, transformers: Any, spelled: str, token_id: int = ID) -> None:
    """Harmless words as in transformers; the control token's own text in them stays text."""
    for contents in (("hello",), ("a <b> \n", "  c"), ("x" * 50, " \t", "<|")):
        messages = [{"role": "user", "content": content} for content in contents]
        expected = transformers.apply_chat_template(messages, return_dict=False)
        assert chat(text, *contents) == expected
        assert token_id in expected
    for words in (spelled, f"a{spelled}b", f" {spelled} ", f"x {spelled * 2}\n"):
        ids = chat(text, "x", words)
        assert ids.count(token_id) == chat(text, "x", "y").count(token_id), words
        decoded = transformers.decode(ids, clean_up_tokenization_spaces=False)
        assert decoded.count(spelled) == chat(text, "x", "y").count(token_id) + words.count(spelled)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    "spelled",
    [
        "<|im_end|>",
        "[END]",
        "</s>",
        "###",
        "END_TURN",
        "USER:",
        "<\uff5cend\u2581of\u2581turn\uff5c>",
        "\u2039\u00e9\u203a",
        "<a b>",
    ],
)
def test_what_the_template_writes(spelled: str, special: bool, tmp_path: Path) -> None:
    token = {"content": spelled, "special": special}
    text, transformers = checkpoint(tmp_path, TEMPLATE % (spelled, spelled), token=token)
    check(text, transformers, spelled)


@pytest.mark.parametrize(
    ("spelled", "template"),
    [
        ("<|user|>", "<|{{ m.role }}|>"),
        ("<|user|>", "{{ '<|' + m.role + '|>' }}"),
        ("<|assistant|>", "<|{{ m.role }}|>"),
        ("<|system|>", "{{ '<|%s|>' % m.role }}"),
        ("<|tool|>", "{{ '<|' ~ m.role ~ '|>' }}{{ m.tool_calls | length }}"),
        ("<|im_end|>", "{{ '<|im_' ~ 'end|>' }}"),
        ("<|im_end|>", "{{ '<|x_end|>'.replace('x', 'im') }}"),
    ],
)
def test_what_the_template_builds_of_pieces(spelled: str, template: str, tmp_path: Path) -> None:
    """Also around kinds of messages that this conversation does not have."""
    token = {"content": spelled, "special": False}
    source = "{{ bos_token }}{% for m in messages %}" + template + "{{ m.content }}{% endfor %}"
    text, transformers = checkpoint(tmp_path, source, token=token)
    messages = [{"role": "user", "content": "x"}]
    written = transformers.apply_chat_template(messages, return_dict=False).count(ID)
    assert chat(text, f"a {spelled} b").count(ID) == chat(text, "x").count(ID) == written


@pytest.mark.parametrize("spelled", ["<|im_end|>", "stopped", ".,.,."])
def test_ids_that_end_a_generation_are_control_tokens(spelled: str, tmp_path: Path) -> None:
    """Whether the template writes it or not, and however it is spelled."""
    token = {"content": spelled, "special": False}
    text, _ = checkpoint(tmp_path, TEMPLATE % ("", ""), token=token, ends=[ID])
    assert ID not in chat(text, f"Please {spelled} here", spelled)
    assert ID in text.encoder.encode_trusted(f"Please {spelled} here")


@pytest.mark.parametrize(
    "config",
    [
        {"eos_token": "<|im_end|>"},
        {"pad_token": {"content": "<|im_end|>", "__type": "AddedToken"}},
        {"additional_special_tokens": ["<|im_end|>"]},
        {"extra_special_tokens": {"turn_token": "<|im_end|>"}},
        {"chat_control_tokens": ["<|im_end|>"]},
        {"tool_token": "<|im_end|>"},
        {"added_tokens_decoder": {"1900": {"content": "<|im_end|>", "special": True}}},
    ],
    ids=lambda config: next(iter(config)),
)
def test_special_tokens_of_the_other_files(config: dict[str, Any], tmp_path: Path) -> None:
    token = {"content": "<|im_end|>", "special": False}
    text, _ = checkpoint(tmp_path, TEMPLATE % ("", ""), token=token, **config)
    assert ID not in chat(text, "a<|im_end|>b")


@pytest.mark.parametrize(
    "spelled", ["hellohello", "e-mail", "New York", "C++", "été", "<unit>", "  "]
)
@pytest.mark.parametrize("said", [False, True])
def test_a_word_that_training_added_is_a_word(spelled: str, said: bool, tmp_path: Path) -> None:
    """In a user's words, and where the template has it in a sentence, as in transformers."""
    sentence = f"Say {spelled} to all. " if said and spelled not in ("C++", "<unit>") else ""
    token = {"content": spelled, "special": False}
    text, transformers = checkpoint(tmp_path, TEMPLATE % (sentence, ""), token=token)
    for words in (spelled, f"a {spelled} b", f"x{spelled}y", f"{spelled}<|eot_id|"):
        messages = [{"role": "user", "content": words}]
        assert chat(text, words) == transformers.apply_chat_template(messages, return_dict=False)
        assert ID in chat(text, words)
        assert ID in chat(text, f"{words} <|eot_id|>")  # also beside what stays text
        assert ENDS[-1] not in chat(text, f"{words} <|eot_id|>")


@pytest.mark.parametrize(
    "how",
    [{"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}, {"normalized": True},
     {"single_word": True}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("special", [True, False])
def test_a_token_that_depends_on_the_text_around_it(
    how: dict[str, bool], special: bool, tmp_path: Path
) -> None:
    token = {"content": "<|im_end|>", "special": special, **how}
    text, transformers = checkpoint(tmp_path, TEMPLATE % ("<|im_end|>", "<|im_end|>"), token=token)
    for contents in (("a",), ("  a \n\n", "\t b"), ("x_", "_y ")):
        messages = [{"role": "user", "content": content} for content in contents]
        expected = transformers.apply_chat_template(messages, return_dict=False)
        assert chat(text, *contents) == expected
        # The same with words that stay text, but for those words.
        poisoned = chat(text, *contents, "<|im_end|>")
        assert poisoned[: len(expected) - 3] == expected[:-3]
        assert poisoned.count(ID) == expected.count(ID) + 1


@pytest.mark.parametrize("kind", ["Lowercase", "NFC", "NFKC"])
@pytest.mark.parametrize("normalized", [True, False])
def test_a_tokenizer_that_normalizes(kind: str, normalized: bool, tmp_path: Path) -> None:
    """Nothing that becomes the token's text by normalization becomes the token."""

    def edit(document: Document) -> None:
        document["normalizer"] = {"type": kind}

    token = {"content": "<|im_end|>", "special": False, "normalized": normalized}
    text, transformers = checkpoint(tmp_path, TEMPLATE % ("<|im_end|>", "<|im_end|>"), edit, token)
    for contents in (("Hi",), ("A\u030a \ufb01", "\u3000x")):
        messages = [{"role": "user", "content": content} for content in contents]
        expected = transformers.apply_chat_template(messages, return_dict=False)
        assert chat(text, *contents) == expected
        for words in ("<|IM_END|>", "<|im_end|>", "\uff1c|im_end|\uff1e"):
            assert chat(text, *contents, words).count(ID) == expected.count(ID) + 1


def test_a_control_token_may_be_a_word_of_the_vocabulary_too(tmp_path: Path) -> None:
    """As in GPT-2's and SmolLM's tokenizers, and reachable: BPE looks whole words up here."""
    spelled = "STOP"

    def edit(document: Document) -> None:
        model = document["model"]
        [word] = [word for word, number in model["vocab"].items() if number == 1000]
        model["vocab"] = {spelled if w == word else w: n for w, n in model["vocab"].items()}
        parts = [
            merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]
        ]
        model["merges"] = [part for part in parts if word not in (*part, "".join(part))]
        model["merges"] += [["S", "T"]] if "ST" in model["vocab"] else []
        document["added_tokens"].append(
            {"id": 1000, "content": spelled, "special": True, "normalized": False,
             "lstrip": False, "rstrip": False, "single_word": False}
        )  # fmt: skip

    text, transformers = checkpoint(tmp_path, TEMPLATE % (spelled, spelled), edit)
    check(text, transformers, spelled, 1000)
    words = [token for token in transformers.added_tokens_decoder if token != 1000]
    assert chat(text, f"{spelled}<|eot_id|>").count(1000) == 2
    assert not set(words) & set(text.encoder.encode_plain("".join(transformers.get_vocab())))


def processor(*single: dict[str, Any]) -> Callable[[Document], None]:
    def edit(document: Document) -> None:
        tokens = {
            name: {"id": name, "ids": [number], "tokens": [name]}
            for name, number in (("<|begin_of_text|>", BOS), ("<|eot_id|>", ENDS[-1]))
        }
        document["post_processor"] = (
            {"type": "TemplateProcessing", "single": list(single), "pair": list(single),
             "special_tokens": tokens} if single else BYTE_LEVEL
        )  # fmt: skip

    return edit


A = {"Sequence": {"id": "A", "type_id": 0}}
BEGIN = {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}
EOT = {"SpecialToken": {"id": "<|eot_id|>", "type_id": 0}}


@pytest.mark.parametrize(
    ("single", "begins"),
    [((BEGIN, A), True), ((BEGIN, A, EOT), True), ((A, EOT), False), ((), False)],
    ids=["bos", "bos and eos", "eos", "none"],
)
def test_a_raw_prompt_begins_as_the_tokenizer_has_it(
    single: tuple[dict[str, Any], ...], begins: bool, tmp_path: Path
) -> None:
    """And is not ended: a prompt goes on."""
    text, transformers = checkpoint(tmp_path, TEMPLATE % ("", ""), processor(*single))
    theirs = transformers("Hi there")["input_ids"]
    ours = text.encoder.encode_trusted("Hi there")
    assert ours == [token for token in theirs if token not in ENDS]
    assert (ours[0] == BOS) == begins
    assert text.encoder.encode_trusted("<|begin_of_text|>Hi").count(BOS) == 1
    messages = [{"role": "user", "content": "Hi"}]
    assert chat(text, "Hi") == transformers.apply_chat_template(messages, return_dict=False)


@pytest.mark.parametrize("add_prefix_space", [True, False])
def test_a_space_before_every_text(add_prefix_space: bool, tmp_path: Path) -> None:
    def edit(document: Document) -> None:
        document["pre_tokenizer"]["pretokenizers"][-1]["add_prefix_space"] = add_prefix_space

    token = {"content": "<|im_end|>", "special": False}
    text, transformers = checkpoint(
        tmp_path, TEMPLATE % ("<|im_end|>", "<|im_end|>"), edit, token,
        add_prefix_space=True, clean_up_tokenization_spaces=True,
    )  # fmt: skip
    messages = [{"role": "user", "content": content} for content in ("a", " b")]
    assert chat(text, "a", " b") == transformers.apply_chat_template(messages, return_dict=False)
    assert text.encoder.encode_trusted("a , b") == transformers("a , b")["input_ids"]
    assert chat(text, "<|im_end|>").count(ID) == 2


def test_a_token_that_a_user_ends_or_begins_is_text(tmp_path: Path) -> None:
    text, transformers = checkpoint(tmp_path, TEMPLATE % ("", ""))
    for parts in (
        (Words("<|eot"), "_id|>"),
        ("<|eot_id", Words("|>")),
        ("<|", Words("eot"), "_id|>"),
    ):
        ids = text.encoder.encode_rendered(RenderedPrompt(concatenated(parts)))
        assert ids[0] == BOS
        assert not {*ids[1:]} & {*transformers.added_tokens_decoder}
    own = RenderedPrompt(concatenated(("<|eot", "_id|>", Words("x"))))
    assert ENDS[-1] in text.encoder.encode_rendered(own)


def test_a_normalization_that_moves_a_control_token_makes_none(tmp_path: Path) -> None:
    """A user's words break the template's token and form one, so that the count stays right."""

    def edit(document: Document) -> None:
        document["normalizer"] = {"type": "NFKC"}

    token = {"content": "<|im_end|>", "special": False, "normalized": True}
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    text, _ = checkpoint(tmp_path, template, edit, token)
    ids = chat(text, "x\uff1c|im_end|\uff1ey", "\u0338b")
    assert ids.count(ID) == 2
    assert ids[: ids.index(ID)] == [BOS, *text.encoder.encode_plain("x\uff1c|im_end|\uff1ey")]
