"""The reference file, against the in-memory reference, transformers and the golden tokens."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import make_reference
import numpy as np
import pytest
from checkpoints.llama_config import load_llama_config
from checkpoints.safetensors_file import read_safetensors
from host.console import BuildError
from host.output_folder import write_whole_file
from reference.file import Reference, read_reference
from reference.prompts import PROMPTS, render_prompts
from reference.streamed import StreamedLlama
from transformers import AutoTokenizer

from tests.support.golden import GOLDEN
from tests.support.paths import BUILD, DEMO_CHECKPOINT
from tests.support.processes import eventually
from tests.support.small_engines import load_reference, random_prompt, write_checkpoint

SCRIPT = [sys.executable, str(BUILD / "make_reference.py")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several files, so that a pass crosses them."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", shard_bytes=60_000)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The demo checkpoint's, as `make verify` makes it."""
    path = tmp_path_factory.mktemp("reference") / "demo.json"
    assert make_reference.make_reference(DEMO_CHECKPOINT, path)
    return read_reference(path)


@pytest.mark.parametrize("tied", [False, True])
def test_the_streamed_reference_equals_the_one_in_memory(
    tmp_path: Path, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reference.streamed.CHUNK_ROWS", 48)  # no divisor of most linears' rows
    checkpoint = write_checkpoint(tmp_path / "checkpoint", 3, 60_000, tie_word_embeddings=tied)
    prompts = [random_prompt(length, length) for length in (9, 1, 30)]
    passes = [prompts, [(7,), (), (8, 9)], [(), (5,), (6,)]]
    streamed = StreamedLlama(checkpoint, len(prompts))
    got: list[list[Any]] = [[], [], []]
    for one in passes:
        for index, hidden in enumerate(streamed.hidden_states(one)):
            got[index].append(streamed.logits(hidden))
    reference = load_reference(checkpoint)
    for index, parts in enumerate(got):
        reference.reset()
        whole = reference.forward([token for one in passes for token in one[index]])
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-5)


def test_a_pass_reports_all_its_bytes(tiny: Path) -> None:
    llama, reported = StreamedLlama(tiny, 1), list[int]()
    llama.advance = reported.append
    llama.logits(llama.hidden_states([[4, 5]])[0])
    assert sum(reported) == llama.pass_bytes


def test_the_continuations_are_the_references_own(demo: Reference) -> None:
    llama = load_reference(DEMO_CHECKPOINT)
    for prompt in demo.prompts:
        tokens = llama.generate(prompt.prompt_ids, len(prompt.tokens), demo.eos_token_ids)
        assert tokens == prompt.tokens
        assert len(tokens) == 32 or tokens[-1] in demo.eos_token_ids
    assert any(len(prompt.tokens) == 32 for prompt in demo.prompts)
    assert any(len(prompt.tokens) < 32 for prompt in demo.prompts)


def test_a_prompt_of_the_golden_file_has_its_numbers(demo: Reference) -> None:
    (golden,) = [one for one in GOLDEN["prompts"] if "The capital of France" in one["prompt"]]
    (own,) = [prompt for prompt in demo.prompts if prompt.name == "capital"]
    assert own.prompt_ids == golden["prompt_ids"]
    assert own.tokens == golden["tokens"]
    assert own.text == golden["text"]
    for (token, logprob), (expected, value) in zip(
        own.top[0], golden["first_top_logprobs"], strict=False
    ):
        assert token == expected
        assert logprob == pytest.approx(value, abs=2e-3)


def test_likeliest_are_log_probabilities() -> None:
    logits = np.array([math.log(share) + 5 for share in (0.1, 0.6, 0.3)], np.float32)
    top = make_reference.likeliest(logits, 2)
    assert [token for token, _ in top] == [1, 2]
    assert [logprob for _, logprob in top] == pytest.approx(np.log([0.6, 0.3]), abs=1e-6)


def test_prompts_are_rendered_as_transformers_does() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)
    entries = json.loads(PROMPTS.read_text(encoding="utf-8"))
    rendered = render_prompts(DEMO_CHECKPOINT, load_llama_config(DEMO_CHECKPOINT), None)
    assert len(rendered) == len(entries) >= 10
    for prompt, entry in zip(rendered, entries, strict=True):
        if prompt.messages:
            expected = tokenizer.apply_chat_template(
                entry["messages"], add_generation_prompt=True, return_dict=False
            )
        else:
            expected = tokenizer(entry["text"])["input_ids"]
        assert prompt.ids == list(expected), prompt.name


def test_without_a_chat_template_there_are_raw_prompts(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_reference.make_reference(tiny, tmp_path / "reference.json", 3, 2)
    assert "has no chat template" in capsys.readouterr().out
    reference = read_reference(tmp_path / "reference.json")
    assert [prompt.messages for prompt in reference.prompts] == [None] * 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_continues(tiny: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Killed between any two instructions, another run continues from what is there."""
    output, whole = tmp_path / "reference.json", tmp_path / "whole.json"
    make_reference.make_reference(tiny, whole, tokens=100)
    command = [*SCRIPT, "--checkpoint", str(tiny), "--output", str(output), "--tokens", "100"]
    work = tmp_path / "reference.json.partial"
    nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, text=True, stdout=nothing, stderr=pipe) as process:
        eventually((work / "progress.json").exists, "a pass is done")
        process.send_signal(number)
        said = process.communicate()[1]
    if number == signal.SIGINT:
        assert process.returncode == 130
        kept = f"interrupted; the work so far is kept in {work}, the same command continues "
        assert said == f"{kept}there\n"
    else:
        assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "continuing after token " in again
    first, second = read_reference(whole), read_reference(output)
    assert [p.tokens for p in second.prompts] == [p.tokens for p in first.prompts]
    assert sorted(tmp_path.iterdir()) == [output, whole]


def test_progress_of_other_work_or_damaged_progress_is_ignored(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "reference.json"
    work = tmp_path / "reference.json.partial"
    for left in ('{"identity": {}, "tops": [[[[1, -0.5]]]]}', '{"identity": ', "[]"):
        work.mkdir()
        (work / "progress.json").write_text(left, encoding="utf-8")
        output.unlink(missing_ok=True)
        make_reference.make_reference(tiny, output, 1, 2)
        assert "going on" not in capsys.readouterr().out
        assert not work.exists()


def test_an_up_to_date_file_is_left_alone(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    output = tmp_path / "reference.json"
    assert make_reference.make_reference(checkpoint, output, 2, 2)
    before = output.stat().st_mtime_ns
    assert not make_reference.make_reference(checkpoint, output, 2, 2)
    assert output.stat().st_mtime_ns == before
    assert make_reference.make_reference(checkpoint, output, 2, 3)
    old = read_reference(output).checkpoint_sha256
    write_checkpoint(checkpoint, seed=2)  # over the old one
    assert make_reference.make_reference(checkpoint, output, 2, 3)
    assert read_reference(output).checkpoint_sha256 != old


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", vocab_size=64)
    with pytest.raises(BuildError, match="ids must be below the model's vocab_size 64"):
        make_reference.make_reference(checkpoint, tmp_path / "reference.json")


def _changed(**changes: Any) -> str:
    """A reference file of one token, with these changes."""
    prompt = {"name": "a", "messages": None, "prompt": "", "prompt_ids": [1], "text": ""}
    document = {
        "format_version": 1,
        "checkpoint": "c",
        "checkpoint_sha256": "",
        "vocab_size": 9,
        "eos_token_ids": [2],
        "dated_template": False,
        "made_with": {},
        "prompts": [{**prompt, "top": [[[1, -0.1], [2, -3.0]]]}],
    }
    return json.dumps({**document, **changes})


def test_a_reference_file_of_one_token_is_read(tmp_path: Path) -> None:
    (tmp_path / "reference.json").write_text(_changed(), encoding="utf-8")
    (prompt,) = read_reference(tmp_path / "reference.json").prompts
    assert prompt.tokens == [1]
    assert prompt.margin(0) == pytest.approx(2.9)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "does not exist; make it with 'build/make_reference.py"),
        ("{", "is not a reference file"),
        ("[]", "is not a reference file"),
        ("{}", "it lacks 'format_version'"),
        ('{"format_version": 9}', "format_version must be 1, not 9"),
        (_changed(vocab_size="many"), "invalid literal for int"),
        (_changed(eos_token_ids=1), "not iterable"),
        (_changed(extra=1), "unexpected keyword argument 'extra'"),
        (_changed(prompts=[]), "holds no prompts"),
        (_changed(prompts=[{"name": "a", "prompt_ids": ["x"], "top": []}]), "invalid literal"),
        (_changed(prompts=[{"name": "a", "prompt_ids": [1], "top": []}]), "'a' has no tokens"),
        (_changed(prompts=[{"name": "a", "prompt_ids": [1], "top": [[[1]]]}]), "not enough values"),
    ],
)
def test_what_is_no_reference_file_is_refused(
    tmp_path: Path, content: str | None, sentence: str
) -> None:
    path = tmp_path / "reference.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(BuildError, match=sentence):
        read_reference(path)


def test_damaged_weights_are_one_sentence(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    tensors = read_safetensors(checkpoint / "model.safetensors")
    scale = tensors["model.layers.0.mlp.down_proj.weight_scale"]
    with scale.path.open("r+b") as file:
        file.seek(scale.offset)
        file.write(b"\x7f")  # NaN
    with pytest.raises(BuildError, match="are not finite; look for the cause"):
        make_reference.make_reference(checkpoint, tmp_path / "reference.json")
    assert not (tmp_path / "reference.json").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "there is no checkpoint; give --checkpoint or --profile"),
        (["--profile", "llama-3.1-8b-cpu"], "names no checkpoint's folder"),
        (["--checkpoint", "/nowhere"], "/nowhere is not a folder"),
    ],
)
def test_a_missing_checkpoint_is_one_sentence(
    tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    output = ["--output", str(tmp_path / "reference.json")]
    result = subprocess.run([*SCRIPT, *arguments, *output], capture_output=True, text=True)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert sentence in line
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    write_whole_file(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole_file(path, "half of it \ud800")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
