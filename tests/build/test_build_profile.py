"""The profiles: each one loads, and a mistake is named with the choices."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints.llama_config import parse_llama_config
from compile_engine import parse_arguments
from engines.gpu_step import fit_gpu
from engines.hardware import GIB
from engines.profile import PROFILES, load_profile, profile_names
from host.console import BuildError
from make_checkpoint import SHAPES

GOOD = """
description = "d"
model_name = "m"
runtime = "replay"
[checkpoint]
directory = "x"
"""
LLAMA = parse_llama_config(
    Path("config.json"),
    {**SHAPES["llama-3.1-8b"], "model_type": "llama", "rms_norm_eps": 1e-5, "hidden_act": "silu"},
    {},
)
WEIGHTS = 6_027_749_376


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_of_the_repository_loads(name: str) -> None:
    assert load_profile(name) == load_profile(str(PROFILES / f"{name}.toml"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("runtime = 'replai'", ": runtime must be one of .*, not 'replai'"),
        ("speed = 3", "profile has the unknown key 'speed'; known are description"),
        ("limits.max_seqlen = 3", "limits has the unknown key 'max_seqlen'.*max_seq_len"),
        ("limits.max_seq_len = 'long'", "max_seq_len is 'long' and must be a JSON int"),
        ("limits.max_batch_size = -1", "limits.max_batch_size must be 0 or more, not -1"),
        ("checkpoint.repo = 'a/b'", "must have either repo or directory, not 'a/b' and 'x'"),
        ("hardware.gpus = -1", "hardware.gpus must be 0 or more, not -1"),
        ("verify.max_perplexity_ratio = 0.5", "max_perplexity_ratio 1 or more, not 0.5 and 0.5"),
        ("limits.hang_timeout_s = nan", "hang_timeout_s has nan and must be a finite number"),
        ("verify.max_logprob_error = nan", "max_logprob_error has nan and must be a finite number"),
        ("hardware.gpu_memory_gib = inf", "gpu_memory_gib has inf and must be a finite number"),
        ("runtime_options.a.b = [2020-01-01]", "must be what JSON can say"),
        ("not toml", "cannot be read"),
        ("a = " + "[" * 100_000, "cannot be read"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, change: str, words: str) -> None:
    path = tmp_path / "profile.toml"
    good = GOOD.replace('runtime = "replay"\n', "") if change.startswith("runtime =") else GOOD
    path.write_text(change + "\n" + good.replace("[checkpoint]\ndirectory", "checkpoint.directory"))
    with pytest.raises(BuildError, match=words) as caught:
        load_profile(str(path))
    assert "\n" not in str(caught.value)


def test_an_unknown_profile_is_named_with_the_known_ones() -> None:
    with pytest.raises(BuildError, match=r"no profile 'nope'; give a file, or one of .*demo"):
        load_profile("nope")


def test_a_revision_is_a_whole_commit_id(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(GOOD.replace('directory = "x"', 'repo = "a/b"\nrevision = "main"'))
    with pytest.raises(
        BuildError, match="revision must be a commit id of 40 hex digits, not 'main'"
    ):
        load_profile(str(path))


def test_an_option_overrides_the_profile() -> None:
    chosen = parse_arguments(["--profile", "demo", "--output", "x", "--max-batch-size", "3"])
    assert (chosen.runtime, chosen.options.precision) == ("openvino", "f32")
    assert chosen.options.kv_cache_tokens == 16384
    assert (chosen.limits.max_seq_len, chosen.limits.max_batch_size) == (2048, 3)
    assert (chosen.checkpoint / "config.json").is_file()


def test_an_unknown_runtime_option_is_named(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(GOOD + "[runtime_options]\nspeed = 3\n")
    with pytest.raises(BuildError, match=r"unknown key 'speed'; known are step_seconds"):
        parse_arguments(["--profile", str(path), "--output", "x"])


@pytest.mark.parametrize(
    ("runtime", "line", "expected"),
    [
        ("replay", "step_seconds = 'fast'", "step_seconds is 'fast'"),
        ("openvino", "threads = '4'", "threads is '4'"),
        ("openvino", "prefix_caching = 1", "prefix_caching is 1"),
    ],
)
def test_a_runtime_option_of_the_wrong_type_is_named(
    tmp_path: Path, runtime: str, line: str, expected: str
) -> None:
    path = tmp_path / "profile.toml"
    text = GOOD.replace('runtime = "replay"', f'runtime = "{runtime}"')
    path.write_text(f"{text}[runtime_options]\n{line}\n")
    with pytest.raises(BuildError, match=f"runtime_options: {expected}"):
        parse_arguments(["--profile", str(path), "--output", "x"])


def test_a_gpus_limits_follow_from_its_memory() -> None:
    """An FP8 token of Llama 3.1 8B takes 2 x 32 layers x 8 heads x 128 bytes: 64 KiB."""
    fit = fit_gpu(LLAMA, WEIGHTS, 32 * GIB)
    assert fit.kv_cache_tokens * 65536 + WEIGHTS < 32 * GIB
    assert fit.kv_cache_tokens * 65536 > 0.5 * 32 * GIB
    assert fit.max_batch_size * 2048 <= fit.kv_cache_tokens
    larger, parallel = fit_gpu(LLAMA, WEIGHTS, 96 * GIB), fit_gpu(LLAMA, WEIGHTS, 32 * GIB, 2)
    assert larger.kv_cache_tokens > fit.kv_cache_tokens
    assert parallel.kv_cache_tokens > 2 * fit.kv_cache_tokens
    assert larger.max_seq_len <= LLAMA.max_position_embeddings


def test_a_gpu_that_is_too_small_is_refused_with_the_sum() -> None:
    with pytest.raises(BuildError, match=r"8.0 GiB is too small: weights 5.6, .* leave 0.0 GiB"):
        fit_gpu(LLAMA, WEIGHTS, 8 * GIB)
