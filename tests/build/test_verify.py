"""`build/verify.py` against real servers: each precision, and which servers it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from engines.profile import load_profile, run_precision
from make_reference import make_reference
from reference.file import PromptReference, Reference, read_reference, write_reference
from reference.served_model import ServedModel
from serving.child_server import ServerProcess
from token_engine.openvino_runtime.cpu_isa import find_cpu_isa

from tests.conftest import MakeRepository, serving
from tests.support.cpu_limits import AVX2, OWN, limits
from tests.support.paths import BUILD, DEMO_CHECKPOINT, ROOT

CLOSED_PORT = "1"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "demo.json"
    make_reference(DEMO_CHECKPOINT, path)
    return path


@pytest.fixture(scope="module")
def bf16_repository(make_repository: MakeRepository) -> Path:
    """With both precisions named, as older builds did."""
    named = ("--precision", "bf16", "--kv-cache-precision", "bf16")
    return make_repository("--runtime", "openvino", *named)


@pytest.fixture(scope="module", params=[OWN, AVX2])
def bf16_server(
    request: pytest.FixtureRequest, bf16_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, str]]:
    """A server on this CPU, and on one with only AVX2, with the precision that it must have."""
    able = find_cpu_isa(environment={**os.environ, **limits(request.param)}).has_bf16
    with pytest.MonkeyPatch.context() as patch:
        for name, isa in limits(request.param).items():
            patch.setenv(name, isa)
        for server in serving(bf16_repository, tmp_path_factory.mktemp("bf16-server")):
            yield server, "bf16" if able else "f32-f16"


def verify(
    server: ServerProcess, reference: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """The command as a person types it; a later argument overrides an earlier one."""
    ports = server.ports
    command = [
        *(sys.executable, str(BUILD / "verify.py"), "--reference", str(reference)),
        *("--grpc-port", str(ports.grpc), "--metrics-port", str(ports.metrics)),
    ]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=500)


def failure(result: subprocess.CompletedProcess[str]) -> str:
    """The one sentence that a run ended with."""
    assert result.returncode == 1, result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def altered(
    reference: Path, folder: Path, change: Callable[[PromptReference], PromptReference]
) -> Path:
    """The reference with its first prompt changed."""
    whole = read_reference(reference)
    first, *others = whole.prompts
    write_reference(folder / "altered.json", replace(whole, prompts=[change(first), *others]))
    return folder / "altered.json"


def test_the_demo_in_f32_is_exact(demo_server: ServerProcess, reference: Path) -> None:
    result = verify(demo_server, reference, "--profile", "demo")
    assert result.returncode == 0, result.stderr
    *table, verdict = result.stdout.splitlines()
    assert verdict.startswith("verified within the tolerances: ")
    prompts = read_reference(reference).prompts
    rows = [line.split() for line in table[3:]]
    assert [row[0] for row in rows] == [*(prompt.name for prompt in prompts), "all"]
    for prompt, row in zip(prompts, rows[:-1], strict=True):
        assert row[1:4] == [str(len(prompt.tokens)), str(len(prompt.tokens)), "0"]
        assert 1e-9 < float(row[4]) < 1e-4  # not zero: the reference is no copy of the engine
        assert row[-1] == "same"
    assert "not compared" not in result.stdout


def test_the_tolerances_are_those_of_the_servers_precision(
    bf16_server: tuple[ServerProcess, str], reference: Path
) -> None:
    """The engine names bf16; the CPU decides, and the profile's name does not."""
    server, run = bf16_server
    for profile in ("demo", "llama-3.1-8b-cpu"):
        result = verify(server, reference, "--profile", profile)
        assert result.returncode == 0, result.stderr
        assert f"the server computes in {run}: " in result.stdout
        allowed = load_profile(profile).tolerances(run)
        assert f"(allowed {allowed.max_logprob_error:g})" in result.stdout
        assert f"(allowed {allowed.max_perplexity_ratio:g})" in result.stdout
    loose, exact = load_profile("llama-3.1-8b-cpu").verify, load_profile("demo").verify
    assert exact.max_logprob_error < load_profile("demo").tolerances(run).max_logprob_error
    assert loose.max_logprob_error > load_profile("demo").tolerances(run).max_logprob_error


def test_neither_precision_is_exact_and_an_option_overrides_the_profile(
    bf16_server: tuple[ServerProcess, str], reference: Path
) -> None:
    server, _ = bf16_server
    options = ("--same-tokens", "--max-logprob-error", "1e-4", "--max-perplexity-ratio", "1.0001")
    sentence = failure(verify(server, reference, "--profile", "demo", *options))
    assert "the mean log-probability error must be at most 0.0001, not 0.0" in sentence


def test_metric_and_log_name_the_precision(bf16_server: tuple[ServerProcess, str]) -> None:
    server, run = bf16_server
    ports = server.ports
    info = ServedModel("127.0.0.1", ports.grpc, ports.metrics, 10).engine_info()
    assert run_precision(info) == run
    assert info["runtime"] == "openvino"
    assert info["precision_reason"]
    assert info["cpu"].startswith(("AVX", "AMX"))
    if run == "f32-f16":
        assert "the engine names bf16, which the CPU with" in info["precision_reason"]
    for label in ("precision", "kv_cache_precision", "cpu", "precision_reason"):
        assert f"{label} {info[label]}" in server.log()


def test_a_shifted_log_probability_is_found(
    demo_server: ServerProcess, reference: Path, tmp_path: Path
) -> None:
    def shift(prompt: PromptReference) -> PromptReference:
        (token, logprob), *others = prompt.top[0]
        return replace(prompt, top=[((token, logprob - 0.2), *others), *prompt.top[1:]])

    path = altered(reference, tmp_path, shift)
    result = verify(demo_server, path, "--profile", "demo", "--max-perplexity-ratio", "2")
    sentence = failure(result)
    count = sum(len(prompt.tokens) for prompt in read_reference(path).prompts)
    stated = float(sentence.partition("error must be at most 0.0001, not ")[2])
    assert stated == pytest.approx(0.2 / count, rel=0.02)
    assert "perplexity" not in sentence


def test_a_diverged_token_is_found(
    demo_server: ServerProcess, reference: Path, tmp_path: Path
) -> None:
    def diverge(prompt: PromptReference) -> PromptReference:
        """Ends with its second choice."""
        (first, best), (second, less), *others = prompt.top[4]
        return replace(prompt, top=[*prompt.top[:4], ((second, best), (first, less), *others)])

    path = altered(reference, tmp_path, diverge)
    result = verify(demo_server, path, "--profile", "demo")
    assert "tokens differ where the reference is sure; none may" in failure(result)
    assert ": 1 of " in result.stderr
    assert result.stdout.splitlines()[3].split()[1:4] == ["5", "4", "0"]


def test_a_changed_chat_is_found(
    demo_server: ServerProcess, reference: Path, tmp_path: Path
) -> None:
    def say_more(prompt: PromptReference) -> PromptReference:
        assert prompt.messages
        return replace(prompt, messages=[*prompt.messages, {"role": "user", "content": "Now."}])

    path = altered(reference, tmp_path, say_more)
    result = verify(demo_server, path, "--profile", "demo")
    assert "the ensemble's text differs for 1 of 12 prompts; none may" in failure(result)
    assert "prompt has " in result.stdout


def test_a_runtime_without_log_probabilities_is_named(
    replay_server: ServerProcess, reference: Path, tmp_path: Path
) -> None:
    result = verify(replay_server, reference)
    assert "tokens differ where the reference is sure" in failure(result)
    assert "not compared: log-probabilities and perplexity (" in result.stdout
    assert "with the replay runtime it must be false" in result.stdout


def test_another_checkpoint_is_refused_before_any_request(
    demo_server: ServerProcess, reference: Path, tmp_path: Path
) -> None:
    other = replace(read_reference(reference), checkpoint="other", checkpoint_sha256="ab" * 32)
    write_reference(tmp_path / "other.json", other)
    result = verify(demo_server, tmp_path / "other.json", "--profile", "demo")
    digest = json.loads(reference.read_text())["checkpoint_sha256"]
    assert f"serves the checkpoint {digest[:12]}..., the reference is of 'other'" in failure(result)
    assert not result.stdout


@pytest.mark.parametrize("difference", [-1, 1])
def test_without_metrics_the_vocabulary_is_compared(
    demo_server: ServerProcess, reference: Path, tmp_path: Path, difference: int
) -> None:
    closed = ("--metrics-port", CLOSED_PORT)
    right = verify(demo_server, reference, "--profile", "demo", *closed)
    assert right.returncode == 0, right.stderr
    assert "not compared: the checkpoint (no metric" in right.stdout
    whole: Reference = read_reference(reference)
    write_reference(
        tmp_path / "other.json", replace(whole, vocab_size=whole.vocab_size + difference)
    )
    sentence = failure(verify(demo_server, tmp_path / "other.json", *closed))
    assert "serves another model than the reference" in sentence


def test_a_missing_server_is_one_sentence(demo_server: ServerProcess, reference: Path) -> None:
    sentence = failure(verify(demo_server, reference, "--grpc-port", CLOSED_PORT))
    assert "no server of this repository answers at 127.0.0.1:1 (UNAVAILABLE)" in sentence
    wrong = ("--grpc-port", str(demo_server.ports.http))
    assert "no server of this repository answers" in failure(verify(demo_server, reference, *wrong))


def test_a_server_that_takes_too_long_is_one_sentence(
    demo_server: ServerProcess, reference: Path
) -> None:
    sentence = failure(verify(demo_server, reference, "--timeout-s", "0.0001"))
    assert "failed (DEADLINE_EXCEEDED" in sentence


def test_tolerances_that_make_no_sense_are_refused(
    demo_server: ServerProcess, reference: Path
) -> None:
    sentence = failure(verify(demo_server, reference, "--max-perplexity-ratio", "0.5"))
    assert "max_perplexity_ratio 1 or more, not " in sentence


def test_a_reference_that_does_not_fit_the_engine_is_refused_by_the_server(
    demo_server: ServerProcess, reference: Path, tmp_path: Path
) -> None:
    def lengthen(prompt: PromptReference) -> PromptReference:
        return replace(prompt, prompt_ids=prompt.prompt_ids * 200)

    sentence = failure(verify(demo_server, altered(reference, tmp_path, lengthen)))
    assert "refuses it: the prompt of " in sentence


def test_make_verify(demo_server: ServerProcess, tmp_path: Path) -> None:
    """As in the README: it makes a missing reference, and finds it the second time."""
    ports, path = demo_server.ports, tmp_path / "reference.json"
    variables = {
        "VENV": sys.prefix,
        "GRPC_PORT": str(ports.grpc),
        "METRICS_PORT": str(ports.metrics),
        "REFERENCE": str(path),
    }
    for words in (f"{path} is ready", f"{path} is up to date"):
        result = subprocess.run(
            ["make", "verify"],
            cwd=ROOT,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert result.returncode == 0, result.stderr
        assert words in result.stdout
        assert "verified within the tolerances" in result.stdout
