"""One engine on every kind of CPU: the precision is settled at load and shown."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from doctor import repositories
from engine_config import load_engine_config
from engines.profile import load_profile
from make_checkpoint import SHAPES
from reference.numpy_llama import ReferenceLlama
from token_engine.interface import EngineLoadError
from token_engine.openvino_runtime import memory as openvino_memory
from token_engine.openvino_runtime.cpu_isa import CpuIsa, find_cpu_isa
from token_engine.openvino_runtime.memory import ModelShape
from token_engine.openvino_runtime.options import OpenVinoOptions
from token_engine.openvino_runtime.precision import settle

from tests.support.cpu_limits import AVX2, AVX512, OWN, SSE, limits, run_limited
from tests.support.paths import ROOT
from tests.support.small_engines import (
    build_engine,
    load_engine,
    load_reference,
    random_prompt,
    sure_greedy,
    write_checkpoint,
)

HASWELL = "fpu sse4_2 avx f16c fma avx2"
SKYLAKE = f"{HASWELL} avx512f avx512dq avx512bw avx512vl"
ZEN_4 = f"{SKYLAKE} avx512_bf16 avx512_vnni"
SAPPHIRE = f"{ZEN_4} amx_bf16 amx_tile amx_int8"
PROMPT = random_prompt(20, seed=3)
NAMED = {  # precision and KV cache: how far a log-probability may be from the reference's
    ("bf16", "bf16"): 0.05,
    ("auto", "auto"): 0.05,
    ("auto", "u8"): 0.2,
    ("f32", "auto"): 1e-4,
}
GENERATE = f"""
import json, sys
from pathlib import Path
from tests.support.engine_answers import generate
from tests.support.small_engines import OPENVINO, load_engine, request
told = []
for precision, kv_cache in {list(NAMED)}:
    options = dict(precision=precision, kv_cache_precision=kv_cache)
    engine = load_engine(Path(sys.argv[1]), **options)
    answer = generate(engine, request(1, {PROMPT}, 12, logprobs=0))[1]
    told.append([engine.facts, answer.tokens, [one.logprob for one in answer.logprobs]])
    engine.shutdown()
able = OPENVINO.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
print(json.dumps([told, "BF16" in able]))
"""


@pytest.mark.parametrize(
    ("flags", "limit", "name", "bf16"),
    [
        (SAPPHIRE, "", "AMX", True),
        (ZEN_4, "", "AVX512-BF16", True),
        (SKYLAKE, "", "AVX-512", False),
        (HASWELL, "", "AVX2", False),
        ("fpu sse4_2 avx f16c", "", "no AVX2", False),
        ("", "", "no AVX2", False),
        (SAPPHIRE, "AVX512_CORE_BF16", "AVX512-BF16 (limited", True),
        (SAPPHIRE, "avx512_core", "AVX-512 (limited", False),
        (ZEN_4, "AVX2_VNNI", "AVX2 (limited", False),
        (ZEN_4, "SSE41", "no AVX2 (limited", False),
        (HASWELL, "AVX512_CORE_AMX", "AVX2", False),  # a limit adds nothing
        (ZEN_4, "nonsense", "AVX512-BF16", True),  # nor does OpenVINO heed it
    ],
)
def test_find_cpu_isa(tmp_path: Path, flags: str, limit: str, name: str, bf16: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: x\n")
    cpu = find_cpu_isa(tmp_path / "cpuinfo", {"OV_CPU_MAX_ISA": limit})
    assert (str(cpu).partition(" by")[0], cpu.has_bf16) == (name, bf16)
    assert cpu.has_avx2 is not name.startswith("no AVX2")


def test_the_narrower_of_the_two_limits_counts(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags : {SAPPHIRE}\n")
    for one, other in (("AVX2", "AVX512_CORE"), ("AVX512_CORE", "AVX2")):
        environment = {"OV_CPU_MAX_ISA": one, "ONEDNN_MAX_CPU_ISA": other}
        limit = find_cpu_isa(tmp_path / "cpuinfo", environment).limit
        assert limit == f"{next(key for key in environment if environment[key] == 'AVX2')}=AVX2"
    both = dict.fromkeys(environment, "avx2")
    limit = "OV_CPU_MAX_ISA=AVX2 and ONEDNN_MAX_CPU_ISA=AVX2"
    assert find_cpu_isa(tmp_path / "cpuinfo", both) == CpuIsa(1, limit)
    old_name = {"DNNL_MAX_CPU_ISA": "AVX512_CORE"}  # which oneDNN still reads
    assert find_cpu_isa(tmp_path / "cpuinfo", old_name) == CpuIsa(2, "DNNL_MAX_CPU_ISA=AVX512_CORE")
    assert not find_cpu_isa(tmp_path / "missing", {}).has_avx2


@pytest.mark.parametrize(
    ("precision", "kv_cache", "with_bf16", "without"),
    [
        ("auto", "auto", ("bf16", "bf16"), ("f32", "f16")),
        ("bf16", "bf16", ("bf16", "bf16"), ("f32", "f16")),  # what older builds wrote
        ("bf16", "auto", ("bf16", "bf16"), ("f32", "f16")),
        ("auto", "u8", ("bf16", "u8"), ("f32", "u8")),
        ("bf16", "f16", ("bf16", "bf16"), ("f32", "f16")),
        ("auto", "f32", ("f32", "f32"), ("f32", "f32")),
        ("bf16", "f32", ("f32", "f32"), ("f32", "f32")),
        ("f32", "auto", ("f32", "f32"), ("f32", "f32")),  # exact stays exact
        ("f32", "f32", ("f32", "f32"), ("f32", "f32")),
        ("f32", "bf16", ("f32", "f16"), ("f32", "f16")),
        ("f32", "u8", ("f32", "u8"), ("f32", "u8")),
    ],
)
def test_settled_precisions(
    precision: str, kv_cache: str, with_bf16: tuple[str, str], without: tuple[str, str]
) -> None:
    options = OpenVinoOptions(1, precision, kv_cache)
    for cpu, expected in ((CpuIsa(4), with_bf16), (CpuIsa(3), with_bf16),
                          (CpuIsa(2), without), (CpuIsa(1), without)):  # fmt: skip
        settled = settle(options, cpu)
        assert (settled.precision, settled.kv_cache_precision) == expected
        assert settled.reason
        if (precision, expected[0]) == ("bf16", "f32") and kv_cache != "f32":
            assert f"the engine names bf16, which the CPU with {cpu}" in settled.reason


def test_only_an_open_kv_cache_gives_way_to_the_memory() -> None:
    def small(precision: str, kv_cache: str) -> bool:
        return kv_cache == "u8"

    for cpu, half in ((CpuIsa(3), "bf16"), (CpuIsa(1), "f16")):
        settled = settle(OpenVinoOptions(1), cpu, small)
        assert settled.kv_cache_precision == "u8"
        assert f"there is not the memory for one in {half}" in settled.reason
        assert settle(OpenVinoOptions(1), cpu, lambda *_: False).kv_cache_precision == half
        assert settle(OpenVinoOptions(1, "f32"), cpu, small).kv_cache_precision == "f32"
        assert settle(OpenVinoOptions(1, "auto", "bf16"), cpu, small).kv_cache_precision == half


@pytest.mark.parametrize("isa", [OWN, AVX512, AVX2])
def test_an_engine_runs_on_every_cpu(folder: Path, checkpoint: Path, isa: str) -> None:
    """For every choice, against the numpy reference, which scores the engine's tokens."""
    told, able = run_limited(isa, GENERATE, folder)
    assert (
        able == find_cpu_isa(environment={**os.environ, **limits(isa)}).has_bf16
    )  # OpenVINO's own word
    reference = load_reference(checkpoint)
    expected = sure_greedy(reference, PROMPT, 12)
    for (named, error), (facts, tokens, logprobs) in zip(NAMED.items(), told, strict=True):
        truth = scored(reference, PROMPT, tokens)
        assert max(abs(a - b) for a, b in zip(logprobs, truth, strict=True)) < error
        if named[0] == "f32":
            assert tokens[: len(expected)] == expected
            assert (facts["precision"], facts["kv_cache_precision"]) == ("f32", "f32")
        else:
            assert facts["precision"] == ("bf16" if able else "f32")
            wanted = {"u8": "u8"}.get(named[1], "bf16" if able else "f16")
            assert facts["kv_cache_precision"] == wanted
        assert facts["precision_reason"]
        assert facts["cpu"].startswith(("AVX", "AMX"))
    assert isa == OWN or not able


def scored(reference: ReferenceLlama, prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """The reference's log-probability of each token in its own context."""
    reference.reset()
    logits = reference.forward([*prompt, *tokens[:-1]])[len(prompt) - 1 :].astype(np.float64)
    normal = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return [float(row[token]) for row, token in zip(normal, tokens, strict=True)]


def test_a_cpu_below_avx2_is_refused(folder: Path, tmp_path: Path) -> None:
    """By the engine, by the compile step and by the doctor, in one sentence."""
    assert CpuIsa(1).lack == ""
    assert CpuIsa(0).lack.startswith("the CPU has no AVX2, without which OpenVINO has no kernels")
    program = """
import json, sys
from pathlib import Path
from host.console import BuildError
from compile_engine import find_step, parse_arguments
from doctor import runtimes
from tests.support.small_engines import load_engine
from token_engine.interface import EngineLoadError
said = [one.reason for one in runtimes() if one.runtime == "openvino" and not one.fits]
try:
    load_engine(Path(sys.argv[1]))
except EngineLoadError as error:
    said.append(str(error))
options = parse_arguments(["--runtime", "openvino", "--check-machine"])
try:
    find_step("openvino").check_machine(options)
except BuildError as error:
    said.append(str(error))
print(json.dumps(said))
"""
    said = run_limited(SSE, program, folder)
    sentence = (
        "OV_CPU_MAX_ISA=SSE42 and ONEDNN_MAX_CPU_ISA=SSE42 hides the CPU's AVX2, without which "
        "OpenVINO has no kernels for 4-bit weights; remove that limit"
    )
    assert said == [sentence] * 3


def test_the_doctor_names_choice_and_reason() -> None:
    command = [sys.executable, str(ROOT / "build" / "doctor.py")]
    environment = {**os.environ, **limits(AVX2)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("openvino")]
    assert "fits" in line
    assert "arithmetic in f32, KV cache in f16: the CPU has AVX2" in line
    own = subprocess.run(command, capture_output=True, text=True).stdout
    chosen = "bf16, KV cache in bf16" if find_cpu_isa().has_bf16 else "f32, KV cache in f16"
    assert f"arithmetic in {chosen}: the CPU has {find_cpu_isa()}" in own


def test_the_doctor_names_a_built_engines_precision(folder: Path, tmp_path: Path) -> None:
    """Not what any engine would: this one names f32."""
    version = tmp_path / "model_repository" / "tensorrt_llm" / "1"
    version.mkdir(parents=True)
    (version / "engine").symlink_to(folder)
    name = load_engine_config(folder).model.name
    what = f"{name} on openvino, arithmetic in f32, KV cache in f32: the engine names f32"
    expected = ("repository", f"model_repository: streaming ensemble, {what}")
    assert list(repositories(tmp_path)) == [expected]


@pytest.mark.skipif(find_cpu_isa().level < 2, reason="the CPU has AVX2 alone: the suite runs on it")
def test_the_engines_own_tests_hold_on_avx2() -> None:
    """The suite's other tests of the engine are run on what this machine has."""
    tests = str(ROOT / "tests/tensorrt_llm/openvino/test_engine.py")
    command = [sys.executable, "-m", "pytest", "-q", "-x", tests]
    own = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**own, **limits(AVX2)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_memory_check_uses_the_settled_precision(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bytes of KV cache: 2 layers x 2 heads x 16 values x 2 x 32 tokens a block, by precision."""
    values = 2 * 2 * 16 * 2 * 32
    blocks = 1000
    shape = openvino_memory.read_shape(folder)

    def load(free: float, **options: str) -> dict[str, str]:
        monkeypatch.setattr(openvino_memory, "available_bytes", lambda: int(free))
        engine = load_engine(folder, num_kv_blocks=blocks, **options)
        engine.shutdown()
        return engine.facts

    exact = shape.weight_bytes("f32") + 4 * values * blocks
    assert load(exact)["kv_cache_precision"] == "f32"  # as it was compiled
    sentence = (
        r"^the weights \(0\.0 GB in f32\) and the KV cache \(0\.0 GB in f32, num_kv_blocks 1000\) "
        r"exceed the 0\.0 GB that are free; free memory, or build the engine with a "
        r"--kv-cache-tokens of at most 31968, and a --max-seq-len that is no more$"
    )
    with pytest.raises(EngineLoadError, match=sentence):
        load(exact - 1)
    with pytest.raises(EngineLoadError, match=r"free memory, or serve on a machine with more$"):
        load(shape.weight_bytes("f32") - 1)
    for named in ("auto", "bf16"):
        run = "bf16" if find_cpu_isa().has_bf16 else "f32"
        half = shape.weight_bytes(run) + 2 * values * blocks
        facts = load(half, precision=named, kv_cache_precision="auto")
        assert facts["kv_cache_precision"] in ("bf16", "f16")
        facts = load(half - 1, precision=named, kv_cache_precision="auto")
        assert facts["kv_cache_precision"] == "u8"
    with pytest.raises(EngineLoadError, match=r"the KV cache \(0\.0 GB in (bf16|f16), "):
        load(half - 1, precision="auto", kv_cache_precision="bf16")


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_the_8b_profile_fits_into_16_gb_on_every_cpu(level: int) -> None:
    """With 0.7 GB left to the system; the KV cache is in f16 only where f32 would not fit."""
    shape = ModelShape.of(SHAPES["llama-3.1-8b"])
    blocks = load_profile("llama-3.1-8b-cpu").runtime_options["kv_cache_tokens"] // 32
    free = 16e9 - 0.7e9

    def fits(precision: str, kv_cache: str) -> bool:
        return shape.weight_bytes(precision) + shape.kv_cache_bytes(blocks, kv_cache) <= free

    settled = settle(OpenVinoOptions(blocks), CpuIsa(level), fits)
    assert settled.kv_cache_precision == ("bf16" if level > 2 else "f16")
    assert fits(settled.precision, settled.kv_cache_precision)
    assert not fits("f32", "f32")


WEIGH = """
import json, sys
from pathlib import Path
from tests.support.engine_answers import generate
from tests.support.small_engines import load_engine, request
from token_engine.openvino_runtime.memory import read_shape
def held():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(one.split()[1]) * 1024 for one in lines if one.startswith("Pss_Anon"))
before = held()
engine = load_engine(Path(sys.argv[1]), precision=sys.argv[2], kv_cache_precision="auto")
generate(engine, request(1, (5,) * 64, 2))
took = held() - before
print(json.dumps([took, read_shape(Path(sys.argv[1])).weight_bytes(engine.facts["precision"])]))
engine.shutdown()
"""


@pytest.mark.parametrize("precision", ["auto", "f32"])
def test_the_memory_check_is_close_to_the_memory_taken(tmp_path: Path, precision: str) -> None:
    """By the kernel's count of a process; what it needs beside the weights is in the 60 MB."""
    shape = {"hidden_size": 1024, "intermediate_size": 4096, "vocab_size": 32768, "head_dim": 64}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8}
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **shape, **heads)
    folder = build_engine(checkpoint, tmp_path / "engine", "--kv-cache-tokens", "512")
    took, estimated = run_limited(OWN, WEIGH, folder, precision)
    assert 200e6 < estimated < 400e6
    assert 0.95 * estimated < took < 1.1 * estimated + 60e6
