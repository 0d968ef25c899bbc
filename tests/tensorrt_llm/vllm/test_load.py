"""Loading a vLLM engine: options, versions, GPUs and checkpoints, on a fake of the library."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_config import EngineConfigError, parse_section
from token_engine.interface import EngineLoadError
from token_engine.vllm_runtime.options import RESERVED_ARGUMENTS, VllmOptions

from tests.fakes.libraries.rigs import start_vllm, write_model
from tests.fakes.libraries.signatures import remove
from tests.fakes.libraries.worker import Behaviour

NVFP4 = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}
HOPPER, ADA, VOLTA, BLACKWELL = (9, 0), (8, 9), (7, 0), (10, 0)


@pytest.fixture(autouse=True)
def _without_the_fake_afterwards() -> Iterator[None]:
    yield
    remove("vllm", "torch")


def parsed(**document: Any) -> VllmOptions:
    return parse_section(VllmOptions, document, "runtime_options")


def test_default_options_are_valid() -> None:
    options = parsed()
    assert options == VllmOptions()
    assert parsed(**dataclasses.asdict(options)) == options


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"dtype": "fp32"}, "dtype is 'fp32' and must be one of 'auto', 'bfloat16'"),
        ({"quantization": "awq"}, "quantization is 'awq' and must be one of '', 'modelopt_fp4'"),
        ({"kv_cache_dtype": "int8"}, "kv_cache_dtype is 'int8' and must be one of 'auto'"),
        ({"structured_outputs_backend": "x"}, "structured_outputs_backend is 'x'"),
        ({"gpu_memory_utilization": 0}, "gpu_memory_utilization is 0.0 and must be above 0 and"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization is 1.5"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size is 0 and must be at least 1"),
        ({"stream_interval": 0}, "stream_interval is 0 and must be at least 1"),
        ({"block_size": -16}, "block_size is -16 and must be at least 0"),
        ({"cudagraph_capture_sizes": [1, 0]}, r"cudagraph_capture_sizes is \[1, 0\]"),
        ({"enforce_eager": 1}, "enforce_eager is 1 and must be a JSON bool"),
        ({"gpu_memory_utilisation": 0.9}, "did you mean 'gpu_memory_utilization'"),
        ({"max_num_seqs": 4}, "unknown key 'max_num_seqs'"),
    ],
)
def test_what_is_wrong_is_named(document: dict[str, Any], expected: str) -> None:
    with pytest.raises(EngineConfigError, match=expected):
        parsed(**document)


@pytest.mark.parametrize("name", [*RESERVED_ARGUMENTS, "dtype", "speculative_config"])
def test_more_arguments_set_nothing_that_is_set_elsewhere(name: str) -> None:
    with pytest.raises(EngineConfigError, match=f"more_engine_args is .*no {name}: "):
        parsed(more_engine_args={name: 1})


def test_every_option_is_an_argument_of_the_library(tmp_path: Path) -> None:
    """Each option that is set reaches EngineArgs under its own name."""
    ours = {"model_directory", "structured_outputs_backend", "more_engine_args"}
    given: dict[str, Any] = {
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 2,
        "dtype": "bfloat16",
        "quantization": "modelopt_fp4",
        "kv_cache_dtype": "fp8",
        "gpu_memory_utilization": 0.5,
        "kv_cache_memory_bytes": 3,
        "num_gpu_blocks_override": 4,
        "block_size": 32,
        "enable_prefix_caching": False,
        "enforce_eager": True,
        "cudagraph_capture_sizes": [1, 2],
        "attention_backend": "FLASHINFER",
        "linear_backend": "marlin",
        "stream_interval": 3,
        "speculative_config": {"method": "ngram"},
        "compilation_config": {"level": 0},
    }
    assert {one.name for one in dataclasses.fields(VllmOptions)} == ours | given.keys()
    folder = write_model(tmp_path / "engine", **NVFP4)
    for version in ("0_32", "0_33"):
        rig = start_vllm(folder, version, Behaviour(gpus=4), **given)
        args = rig.llm.args
        assert {name: getattr(args, name) for name in given} == given
        rig.engine.shutdown()


def test_an_argument_that_this_version_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        EngineLoadError,
        match=r"vLLM 0\.32\.0 has no argument 'cpu_ofload_gb'; did you mean 'cpu_offload_gb'\? .*"
        r"runtime_options in .*engine\.json",
    ):
        start_vllm(tmp_path / "engine", more_engine_args={"cpu_ofload_gb": 1})


@pytest.mark.parametrize(
    ("capability", "note"),
    [
        (
            HOPPER,
            "NVIDIA Fake (sm90) has no FP4 tensor cores: the Marlin kernel multiplies the 4-bit "
            "weights in BF16, which saves memory and speeds up decoding, but not prefill\n",
        ),
        (ADA, "NVIDIA Fake (sm89) has no FP4"),
        (BLACKWELL, ""),
        ((12, 0), ""),
    ],
)
def test_marlin_is_named_where_the_gpu_has_no_fp4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], capability: tuple[int, int], note: str
) -> None:
    folder = write_model(tmp_path / "engine", **NVFP4)
    start_vllm(folder, behaviour=Behaviour(capability=capability)).engine.shutdown()
    said = capsys.readouterr().err
    assert said.startswith(note)
    assert bool(said) == bool(note)


def test_a_checkpoint_that_is_not_quantized_needs_no_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_vllm(tmp_path / "engine", behaviour=Behaviour(capability=HOPPER)).engine.shutdown()
    assert capsys.readouterr().err == ""


def test_hf_quant_config_goes_before_config_json(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "engine", **NVFP4)
    quantization = {"quantization": {"quant_algo": "FP8"}}
    (folder / "hf_quant_config.json").write_text(json.dumps(quantization), encoding="utf-8")
    with pytest.raises(EngineLoadError, match=r"quant_algo is 'FP8' and must be 'NVFP4'"):
        start_vllm(folder, quantization="modelopt_fp4")


@pytest.mark.parametrize(
    ("behaviour", "options", "expected"),
    [
        (
            Behaviour(capability=VOLTA),
            {},
            r"capability 7\.0 and must have 7\.5 or later for NVFP4",
        ),
        (Behaviour(capability=None), {}, r"no NVFP4 kernel for a CPU; .*dense_checkpoint\.py"),
        (Behaviour(gpus=1), {"tensor_parallel_size": 2}, r"1 GPUs are visible .* needs 2; run"),
        (
            Behaviour(gpus=9),
            {"tensor_parallel_size": 9},
            r"vLLM 0\.32\.0 cannot load the model in .*Engine core initialization failed",
        ),
    ],
)
def test_a_machine_that_does_not_fit(
    tmp_path: Path, behaviour: Behaviour, options: dict[str, Any], expected: str
) -> None:
    folder = write_model(tmp_path / "engine", **NVFP4)
    with pytest.raises(EngineLoadError, match=expected) as error:
        start_vllm(folder, behaviour=behaviour, **options)
    assert "\n" not in str(error.value)


def test_a_load_that_fails_leaves_no_thread(tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(EngineLoadError, match="has no argument 'warp'"):
        start_vllm(tmp_path / "engine", more_engine_args={"warp": 1})
    assert threading.active_count() == threads


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: str | None) -> None:
    folder = write_model(tmp_path / "engine")
    (folder / "config.json").unlink() if content is None else None
    if content is not None:
        (folder / "config.json").write_text(content, encoding="utf-8")
    target = tmp_path / "other"
    target.mkdir()
    with pytest.raises(EngineLoadError, match=r"config\.json .*make engine"):
        start_vllm(target, model_directory=str(folder))


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_vllm(tmp_path / "engine").engine.shutdown()
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.async_llm", None)
    from token_engine.vllm_runtime.library import import_library

    with pytest.raises(EngineLoadError, match=r"vLLM cannot be imported .*install vllm 0\.32"):
        import_library()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("vllm.engine.arg_utils", "AsyncEngineArgs"),
        ("vllm.sampling_params", "StructuredOutputsParams"),
        ("vllm.exceptions", "GenerationError"),
        ("vllm.inputs", "tokens_input"),
        ("vllm.platforms", "current_platform"),
    ],
)
def test_a_version_that_moved_a_name_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    start_vllm(tmp_path / "engine").engine.shutdown()
    monkeypatch.delattr(sys.modules[module], name)
    monkeypatch.setattr(sys.modules["vllm"], "__version__", "0.40.0")
    from token_engine.vllm_runtime.library import import_library

    said = rf"vLLM 0\.40\.0 is not as this runtime knows it \(.*{name}.*\); install vllm 0\.33"
    with pytest.raises(EngineLoadError, match=said):
        import_library()


def test_a_silent_driver_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_vllm(tmp_path / "engine").engine.shutdown()

    def broken() -> None:
        raise RuntimeError("CUDA driver initialization failed\nyou might not have a GPU")

    platform = sys.modules["vllm.platforms"].current_platform
    monkeypatch.setattr(platform, "get_device_capability", broken)
    from token_engine.vllm_runtime.library import import_library

    said = r"vLLM finds no platform \(CUDA driver initialization failed you .*\); run 'make doctor'"
    with pytest.raises(EngineLoadError, match=said):
        import_library()


def test_an_old_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_vllm(tmp_path / "engine").engine.shutdown()
    monkeypatch.setattr(sys.modules["vllm"], "__version__", "0.11.2")
    from token_engine.vllm_runtime.library import import_library

    with pytest.raises(EngineLoadError, match=r"vLLM is 0\.11\.2 and must be 0\.32 or later"):
        import_library()
