"""Room 1 starts with every text that the build accepts; refusals name the fault and a remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assemble_repository import assemble
from compile_engine import compile_engine, parse_arguments
from engines.token_table import TokenTable
from host.console import BuildError
from request_preparation import InvalidPrompt, RequestPreparation

from tests.support.paths import DEMO_CHECKPOINT

Edit = Callable[[Path], object]
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
GOOD = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
SMALL = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json",
)  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The demo checkpoint without its weights, which the replay engine does not read."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in SMALL:
        if (DEMO_CHECKPOINT / name).is_file():
            shutil.copyfile(DEMO_CHECKPOINT / name, folder / name)
    return folder


def compiled(checkpoint: Path) -> Path:
    output = checkpoint.parent / "engine"
    arguments = ["--checkpoint", str(checkpoint), "--output", str(output)]
    compile_engine(parse_arguments(["--runtime", "replay", *arguments]))
    return output


def ask(engine: Path, name: str, text: str) -> list[int]:
    """The prompt's ids from room 1."""
    arrays = {name: np.array([[text.encode()]], object)}
    arrays["REQUEST_OUTPUT_LEN"] = np.array([[4]], np.int32)
    ids: list[int] = RequestPreparation(engine).prepare(arrays, set())["INPUT_ID"][0].tolist()
    return ids


def template(value: Any) -> Edit:
    return edited("tokenizer_config.json", lambda config: config.update(chat_template=value))


def edited(name: str, change: Callable[[dict[str, Any]], object]) -> Edit:
    def apply(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        change(document)
        (folder / name).write_text(json.dumps(document))

    return apply


def written(name: str, text: str) -> Edit:
    return lambda folder: (folder / name).write_text(text)


def remove(name: str) -> Edit:
    return lambda folder: (folder / name).unlink()


def file_template(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(GOOD)
    (folder / "chat_template.jinja").write_text(GOOD)


def other_id(document: dict[str, Any]) -> None:
    document["added_tokens"][-1]["id"] -= 300


NAMED = [{"name": "default", "template": GOOD}, {"name": "tool_use", "template": GOOD}]
SERVED: dict[str, Edit] = {
    "as it is": lambda folder: None,
    "named templates": template(NAMED),
    "templates in files": file_template,
    "for tools alone": template([{"name": "tool_use", "template": GOOD + "{{ tools[0] }}"}]),
    "a template that insists on a system's turn": template(
        "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}" + GOOD
    ),
    "filters of transformers": template(
        GOOD + "{% generation %}{{ messages | tojson(indent=2) }}{% endgeneration %}"
    ),
}


@pytest.mark.parametrize("name", SERVED)
def test_what_room_1_serves_is_built(checkpoint: Path, name: str) -> None:
    SERVED[name](checkpoint)
    engine = compiled(checkpoint)
    assert len(ask(engine, "QUERY", "Hello")) > 1
    system = '{"role": "system", "content": "Be brief."}'
    messages = f'[{system}, {{"role": "user", "content": "Hello"}}]'
    if name != "for tools alone":
        assert len(ask(engine, "MESSAGES", messages)) > 1


@pytest.mark.parametrize(
    "edit", [template(None), remove("tokenizer_config.json")], ids=["no template", "no config"]
)
def test_a_missing_template_gives_a_note(
    checkpoint: Path, edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(checkpoint)
    (checkpoint / "chat_template.jinja").unlink(missing_ok=True)
    engine = compiled(checkpoint)
    said = capsys.readouterr().out
    assert "has no chat template: `text_input` is served, `messages` will be refused" in said
    assert len(ask(engine, "QUERY", "Hello")) > 1
    with pytest.raises(InvalidPrompt, match="messages"):
        ask(engine, "MESSAGES", '[{"role": "user", "content": "Hello"}]')


BROKEN: dict[str, tuple[Edit, str, Edit | None]] = {
    "a template that is not Jinja": (
        template("{% for %}"),
        r"the chat template of \S+ cannot be used: .*; correct it, or remove it to serve raw",
        template(None),
    ),
    "a template with an unknown filter": (
        template("{{ messages | shout }}"),
        r"the chat template of \S+ cannot be used: .*shout",
        template(None),
    ),
    "a template of numbers": (
        template(5),
        r"tokenizer_config\.json: chat_template is 5, must be .* or remove it to serve raw",
        template(None),
    ),
    "a template that refuses everything": (
        template("{{ raise_exception('not today') }}"),
        r"the chat template of \S+ renders no conversation: .*not today; correct it, or remove it",
        template(None),
    ),
    "a template that calls what is not there": (
        template("{{ messages[0].nothing.at.all }}"),
        r"the chat template of \S+ renders no conversation: .*; correct it, or remove it",
        template(None),
    ),
    "a template that needs more memory than there is": (
        template("{{ 'a' * 10**15 }}"),
        r"the chat template of \S+ renders no conversation: .*: MemoryError; correct it",
        template(None),
    ),
    "a template that fails inside Jinja": (
        template("{{ messages[0].content | truncate(-5) }}{{ cycler() }}"),
        r"the chat template of \S+ renders no conversation: .*expected length >= 3",
        template(None),
    ),
    "a template for lists of parts alone": (
        template("{% for part in messages[0].content %}{{ part.text }}{% endfor %}."),
        r"renders no conversation: its prompt leaves out what the user says; corr",
        template(None),
    ),
    "a template that is a pointer of git LFS": (
        written("chat_template.jinja", LFS_POINTER),
        r"chat_template\.jinja is a git LFS pointer, not the file; run 'git lfs pull' in ",
        remove("chat_template.jinja"),
    ),
    "a config with a byte order mark": (
        written("tokenizer_config.json", "\ufeff{}"),
        r"tokenizer_config\.json is not JSON .*BOM.*; correct it, or fetch it again",
        remove("tokenizer_config.json"),
    ),
    "a template with half a character": (
        template("\ud800{{ messages[0].content }}"),
        r"the chat template of \S+ renders no conversation: .*surrogates not allowed; correct it",
        template(None),
    ),
    "a config that is a list": (
        written("tokenizer_config.json", "[]"),
        r"tokenizer_config\.json holds \[\], must be an object",
        remove("tokenizer_config.json"),
    ),
    "no tokenizer": (
        remove("tokenizer.json"),
        r"tokenizer\.json does not exist; fetch the whole checkpoint, with its tokenizer",
        None,
    ),
    "a pointer of git LFS": (
        written("tokenizer.json", LFS_POINTER),
        r"tokenizer\.json is a git LFS pointer, not the file; run 'git lfs pull'",
        None,
    ),
    "half a tokenizer": (
        written("tokenizer.json", '{"model": {"type": "BPE"'),
        r"tokenizer\.json is not valid JSON .*; correct it, or fetch it again",
        None,
    ),
    "an empty tokenizer": (
        written("tokenizer.json", "{}"),
        r"tokenizer\.json cannot be used: .*; give a checkpoint whose tokenizer\.json",
        None,
    ),
    "a tokenizer of another kind": (
        edited("tokenizer.json", lambda document: document["model"].update(type="Unigram")),
        r"tokenizer\.json cannot be used: ",
        None,
    ),
    "a token under another id": (
        edited("tokenizer.json", other_id),
        r"tokenizer\.json.*; give ",
        None,
    ),
    "a smaller vocabulary in config.json": (
        edited(
            "config.json",
            lambda config: config.update(vocab_size=1900, eos_token_id=1801),
        ),
        r"tokenizer\.json: .* vocab_size 1900; give the tokenizer that belongs to this checkpoint",
        None,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_room_1_refuses_is_refused_by_the_build(checkpoint: Path, name: str) -> None:
    break_it, expected, remedy = BROKEN[name]
    (checkpoint / "chat_template.jinja").unlink(missing_ok=True)
    break_it(checkpoint)
    with pytest.raises(BuildError, match=expected) as error:
        compiled(checkpoint)
    assert "\n" not in str(error.value)
    assert "make engine" not in str(error.value)  # that is the command that failed
    assert not (checkpoint.parent / "engine").exists()
    if remedy is not None:
        if not (checkpoint / "tokenizer_config.json").exists():
            shutil.copy(DEMO_CHECKPOINT / "tokenizer_config.json", checkpoint)
        remedy(checkpoint)
        assert len(ask(compiled(checkpoint), "QUERY", "Hello")) > 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tokenizer.json", "tokenizer.json cannot be used"),
        ("tokenizer_config.json", "tokenizer_config.json is not JSON"),
        ("token_bytes.npz", "token_bytes.npz cannot be read"),
        ("engine.json", "engine.json cannot be read"),
    ],
)
def test_a_damaged_engine_leaves_the_repository_as_it_was(
    checkpoint: Path, name: str, expected: str
) -> None:
    engine, repository = compiled(checkpoint), checkpoint.parent / "repository"
    assemble(engine, repository)
    placed = repository / "preprocessing" / "1" / "engine"
    before = {path.name: path.read_bytes() for path in placed.iterdir() if path.is_file()}
    damaged = shutil.copytree(engine, checkpoint.parent / "damaged")
    (damaged / name).write_bytes(b"{")
    with pytest.raises(BuildError, match=expected):
        assemble(damaged, repository)
    assert {path.name: path.read_bytes() for path in placed.iterdir() if path.is_file()} == before
    RequestPreparation(placed)


def test_the_build_starts_the_rooms_with_what_it_wrote(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TokenTable, "save", lambda self, path: path.write_bytes(b"x"))
    with pytest.raises(BuildError, match=r"token_bytes\.npz cannot be read"):
        compiled(checkpoint)
    assert not (checkpoint.parent / "engine").exists()


def test_every_file_that_room_1_reads_is_in_its_folder(checkpoint: Path) -> None:
    file_template(checkpoint)
    repository = checkpoint.parent / "repository"
    assemble(compiled(checkpoint), repository)
    placed = repository / "preprocessing" / "1" / "engine"
    assert (placed / "additional_chat_templates" / "tool_use.jinja").read_text() == GOOD
    assert (placed / "chat_template.jinja").read_text() == GOOD
    RequestPreparation(placed)


def test_a_changed_template_makes_another_engine(checkpoint: Path) -> None:
    file_template(checkpoint)
    compiled(checkpoint)
    (checkpoint / "additional_chat_templates" / "tool_use.jinja").write_text(GOOD + "!")
    engine = compiled(checkpoint)
    found = (engine / "additional_chat_templates" / "tool_use.jinja").read_text()
    assert found == GOOD + "!"
