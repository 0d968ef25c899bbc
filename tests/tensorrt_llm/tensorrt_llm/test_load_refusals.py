"""TensorRT-LLM engines that cannot be loaded: one sentence for each."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
from engine_config import EngineConfigError
from token_engine.interface import EngineLoadError
from token_engine.registry import make_engine
from token_engine.tensorrt_llm_runtime.engine import TensorRtLlmEngine

from tests.fakes.tensorrt_llm import fake_llm, fake_package
from tests.fakes.tensorrt_llm.fake_executor import Behaviour
from tests.fakes.tensorrt_llm.rig import engine_config, start, write_model

pytestmark = pytest.mark.usefixtures("loads_undone")


@pytest.mark.parametrize(
    ("version", "settings", "expected"),
    [
        ("1_0", {"sampler_type": "TorchSampler"}, r"TorchSampler of TensorRT-LLM 1\.0\.0 makes ev"),
        ("head", {"sampler_type": "TRTLLMSampler"}, r"1\.4\.0rc0 has no TRTLLMSampler any more"),
        ("head", {"backend": "tensorrt"}, r"1\.4\.0rc0 has no TensorRT engines any more .*pytorch"),
        ("1_2", {"tensor_parallel_size": 2}, r"1 are visible and .*needs 2; .*make doctor"),
        ("1_2", {"behaviour": Behaviour(gpus=0)}, r"no NVIDIA GPU is visible .*make doctor"),
        ("1_2", {"attn_backend": "FLASHINFER"}, r"flashinfer is not installed; set .*'TRTLLM'"),
        (
            "1_2",
            {"more_llm_arguments": {"warp": 9}},
            r"1\.2\.1 has no argument .warp.; correct",
        ),
        (
            "head",
            {"more_llm_arguments": {"print_iter_logs": True}},
            r"has no argument 'print_iter_logs'; did you mean 'print_iter_log'\? correct",
        ),
        ("1_2", {"more_llm_arguments": {"fast_build": True}}, r"specific to TensorRT backend"),
        (
            "1_2",
            {"speculative_config": {"decoding_type": "NGrams"}},
            r"1\.2\.1 refuses speculative_config \(Invalid decoding type: NGrams\); correct",
        ),
        ("1_2", {"model_directory": "elsewhere"}, r"elsewhere/config\.json does not exist; rebuil"),
    ],
    ids=str,
)
def test_what_cannot_be_loaded_is_reported_in_one_sentence(
    tmp_path: Path, version: str, settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(EngineLoadError, match=expected) as error:
        start(tmp_path / "engine", version, **settings)
    assert "\n" not in str(error.value)


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    folder = write_model(tmp_path / "engine")
    with pytest.raises(EngineLoadError, match=r"cannot be imported \(.*; serve from the image nv"):
        make_engine(folder, engine_config())


def test_an_older_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = fake_package.install("1_0", Behaviour())
    monkeypatch.setattr(sys.modules["tensorrt_llm"], "__version__", "0.21.0")
    with pytest.raises(EngineLoadError, match=r"is 0\.21\.0 and must be 1\.0 or later; serve"):
        TensorRtLlmEngine(write_model(tmp_path / "engine"), engine_config())
    assert package.llms == []


@pytest.mark.parametrize("version", ["unknown", "1"])
def test_a_malformed_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    fake_package.install("1_2", Behaviour())
    monkeypatch.setattr(sys.modules["tensorrt_llm"], "__version__", version)
    with pytest.raises(EngineLoadError, match=f"is {version} and must be 1.0 or later; serve"):
        TensorRtLlmEngine(write_model(tmp_path / "engine"), engine_config())


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("tensorrt_llm", "SamplingParams"),
        ("tensorrt_llm", "LLM"),
        ("tensorrt_llm.llmapi", "GuidedDecodingParams"),
        ("tensorrt_llm.llmapi.llm_args", "TorchLlmArgs"),
        ("tensorrt_llm.executor.utils", "RequestError"),
    ],
)
def test_a_version_that_moved_a_name_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    fake_package.install("head", Behaviour())
    monkeypatch.delattr(sys.modules[module], name)
    said = rf"1\.4\.0rc0 is not as this runtime knows it \(.*{name}.*\); serve from the image"
    with pytest.raises(EngineLoadError, match=said):
        TensorRtLlmEngine(write_model(tmp_path / "engine"), engine_config())


def test_an_argument_that_a_later_version_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = fake_package.install("head", Behaviour())
    fields = sys.modules["tensorrt_llm.llmapi.llm_args"].TorchLlmArgs.model_fields
    del fields["enable_autotuner"]
    with pytest.raises(EngineLoadError, match=r"1\.4\.0rc0 has no argument 'enable_autotuner'; "):
        TensorRtLlmEngine(write_model(tmp_path / "engine"), engine_config())
    assert package.llms == []


def test_an_engine_of_another_version_or_gpu_is_refused(tmp_path: Path) -> None:
    fake_package.install("1_2", Behaviour())
    folder = write_model(tmp_path / "engine")
    config = engine_config(backend="tensorrt")
    config.built_with["tensorrt_llm"] = "1.0.0"
    with pytest.raises(
        EngineLoadError, match=r"built with TensorRT-LLM 1\.0\.0, installed is 1\.2"
    ):
        TensorRtLlmEngine(folder, config)
    config.built_with.update(tensorrt_llm="1.2.1", compute_capability="12.0")
    with pytest.raises(EngineLoadError, match=r"compute capability 12\.0, this GPU has 10\.0"):
        TensorRtLlmEngine(folder, config)
    other = dataclasses.replace(config, runtime_options={})  # the checkpoint itself: no matter
    TensorRtLlmEngine(folder, other).shutdown()


def test_wrong_options_stop_the_load(tmp_path: Path) -> None:
    with pytest.raises(EngineConfigError, match="did you mean 'tensor_parallel_size'"):
        start(tmp_path / "engine", tensor_parallel=2)


def test_an_exception_of_many_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> None:
        raise ValueError("1 validation error for TorchLlmArgs\nkv_cache_config.dtype\n  not good")

    monkeypatch.setattr(fake_llm.LLM, "_check_values", fail)
    words = r"\(1 validation error for TorchLlmArgs kv_cache_config\.dtype not good\); correct"
    with pytest.raises(EngineLoadError, match=words):
        start(tmp_path / "engine")
