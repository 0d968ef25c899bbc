"""Loading a TensorRT-LLM engine: the arguments that each version gets, and the environment."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from token_engine.interface import EngineLoadError

from tests.fakes.libraries.signatures import load_signatures
from tests.fakes.tensorrt_llm import fake_package
from tests.fakes.tensorrt_llm.fake_executor import Behaviour
from tests.fakes.tensorrt_llm.rig import LIMITS, VERSIONS, ask, greedy, prompt, start, write_model
from tests.support.engine_answers import generate

pytestmark = pytest.mark.usefixtures("loads_undone")


def arguments(folder: Path, version: str = "1_2", **settings: Any) -> dict[str, Any]:
    """The arguments that the `LLM` got."""
    rig = start(folder, version, **settings)
    rig.engine.shutdown()
    given: dict[str, Any] = rig.llm.given
    return given


EVERYWHERE: dict[str, Any] = {
    "skip_tokenizer_init": False,
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "max_seq_len": 600,
    "max_batch_size": 4,
    "max_num_tokens": 64,
    "max_beam_width": 1,
    "kv_cache_config": {
        "free_gpu_memory_fraction": 0.9,
        "max_tokens": None,
        "dtype": "auto",
        "enable_block_reuse": True,
        "enable_partial_reuse": True,
        "host_cache_size": None,
    },
    "scheduler_config": {
        "capacity_scheduler_policy": "GUARANTEED_NO_EVICT",
        "context_chunking_policy": None,
    },
    "enable_chunked_prefill": True,
    "guided_decoding_backend": "xgrammar",
}
PYTORCH: dict[str, Any] = {
    "max_input_len": 600,
    "cuda_graph_config": {"enable_padding": True},
    "attn_backend": "TRTLLM",
    "stream_interval": 1,
    "disable_overlap_scheduler": False,
    "enable_autotuner": True,
    "enable_iter_perf_stats": True,
}
SAMPLER: dict[str, dict[str, Any]] = {
    "1_0": {"enable_trtllm_sampler": True},
    "1_2": {"sampler_type": "TRTLLMSampler"},
    "head": {},
}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_gets_the_same_arguments_but_for_the_sampler(
    tmp_path: Path, version: str
) -> None:
    folder = tmp_path / "engine"
    model = {"model": str(folder)}
    more = SAMPLER[version] | model
    if version == "head":  # else it takes the table for neither of two kinds
        more["cuda_graph_config"] = {"mode": "decode", "enable_padding": True}
    assert arguments(folder, version) == EVERYWHERE | PYTORCH | more


@pytest.mark.parametrize("version", ["1_0", "1_2"])
def test_a_tensorrt_engine(tmp_path: Path, version: str) -> None:
    folder = tmp_path / "engine"
    given = arguments(folder, version, backend="tensorrt")
    assert given == EVERYWHERE | {"model": str(folder), "tokenizer": str(folder)}
    rig = start(folder, version, backend="tensorrt")
    assert generate(rig.engine, ask(1, prompt(9), 20))[1].tokens == greedy(prompt(9), 20)
    rig.engine.shutdown()


@pytest.mark.parametrize("version", VERSIONS)
def test_options_reach_the_library(tmp_path: Path, version: str) -> None:
    (tmp_path / "engine").mkdir()
    write_model(tmp_path / "weights")
    given = arguments(
        tmp_path / "engine",
        version,
        behaviour=Behaviour(gpus=4),
        model_directory="../weights",
        tensor_parallel_size=2,
        pipeline_parallel_size=2,
        kv_cache_config={"max_tokens": 4096, "host_cache_size": 2**30, "dtype": "fp8"},
        cuda_graph_config={"batch_sizes": [8, 1], "max_batch_size": 8, "enable_padding": False},
        scheduler_config={"capacity_scheduler_policy": "MAX_UTILIZATION"},
        enable_chunked_prefill=False,
        attn_backend="VANILLA",
        guided_decoding_backend="",
        stream_interval=3,
        disable_overlap_scheduler=True,
        enable_autotuner=False,
        more_llm_arguments={"print_iter_log": True},
    )
    assert given["model"] == str(tmp_path / "engine" / "../weights")
    assert given["kv_cache_config"]["max_tokens"] == 4096
    assert given["kv_cache_config"]["host_cache_size"] == 2**30
    assert given["kv_cache_config"]["dtype"] == "fp8"
    mode = {"mode": "decode"} if version == "head" else {}
    assert given["cuda_graph_config"] == {**mode, "enable_padding": False, "batch_sizes": [1, 8]}
    assert given["scheduler_config"]["capacity_scheduler_policy"] == "MAX_UTILIZATION"
    assert given["skip_tokenizer_init"] is True
    assert "guided_decoding_backend" not in given
    assert given["print_iter_log"] is True
    values = {name: given[name] for name in ("attn_backend", "stream_interval")}
    assert values == {"attn_backend": "VANILLA", "stream_interval": 3}
    assert given["disable_overlap_scheduler"] is True
    assert given["enable_autotuner"] is False


def test_cuda_graphs_off_and_up_to_a_size(tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    off = arguments(folder, cuda_graph_config={"enabled": False})
    assert off["cuda_graph_config"] is None
    up_to = arguments(folder, cuda_graph_config={"max_batch_size": 64})
    assert up_to["cuda_graph_config"] == {"enable_padding": True, "max_batch_size": 64}


@pytest.mark.parametrize("version", VERSIONS)
def test_speculative_decoding_is_handed_through(tmp_path: Path, version: str) -> None:
    """As the object that 1.0 to 1.2 want, or as a table; and engine.json's own stays as it is."""
    table = {"decoding_type": "NGram", "max_draft_len": 4}
    rig = start(tmp_path / "engine", version, speculative_config=table)
    given = rig.llm.given
    assert table == {"decoding_type": "NGram", "max_draft_len": 4}
    assert "sampler_type" not in given
    assert "enable_trtllm_sampler" not in given
    drafts = given["speculative_config"]
    assert (drafts if version == "head" else drafts.values | {"decoding_type": "NGram"}) == table
    assert rig.engine._library.sampler.samples is (version == "head")  # it always does there
    rig.engine.shutdown()
    allowed = {**table, "allow_advanced_sampling": True}
    rig = start(tmp_path / "engine", version, speculative_config=allowed)
    assert rig.engine._library.sampler.samples is True
    rig.engine.shutdown()


def test_an_early_first_token(tmp_path: Path) -> None:
    name = "enable_early_first_token_response"
    assert name not in arguments(tmp_path / "engine", "head")
    assert arguments(tmp_path / "engine", "head", **{name: True})[name] is True
    with pytest.raises(EngineLoadError, match=f"1.2.1 has no argument '{name}'"):
        arguments(tmp_path / "engine", "1_2", **{name: True})


def test_a_sampler_type_that_is_left_for_older_callers_is_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes "auto" and "TorchSampler", without effect, and raises of any other."""
    head = load_signatures("tensorrt_llm_head")
    left = SimpleNamespace(json_schema_extra={"status": "deprecated"})
    fields = {**head["llm_arguments"], "sampler_type": left}
    monkeypatch.setattr(
        fake_package, "load_signatures", lambda _: {**head, "llm_arguments": fields}
    )
    for name in ("auto", "TorchSampler"):
        assert "sampler_type" not in arguments(tmp_path / "engine", "head", sampler_type=name)


def test_a_sampler_can_be_named(tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    assert arguments(folder, "1_2", sampler_type="TorchSampler")["sampler_type"] == "TorchSampler"
    given = arguments(folder, "1_0", sampler_type="TRTLLMSampler")
    assert given["enable_trtllm_sampler"] is True
    assert "sampler_type" not in arguments(folder, "head", sampler_type="TorchSampler")


def test_flashinfer_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flashinfer.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    given = arguments(tmp_path / "engine", attn_backend="FLASHINFER")
    assert given["attn_backend"] == "FLASHINFER"


def test_the_environment_of_an_mpirun_is_left_behind(tmp_path: Path) -> None:
    """The server may be a rank of a job; the library must not take the engine process for one."""
    settings = {"OMPI_MCA_coll_hcoll_enable": "0", "PMIX_MCA_gds": "hash", "OPAL_PREFIX": "/opt"}
    ranks = {
        "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_UNIVERSE_SIZE": "1",
        "PMIX_RANK": "0",
        "PMIX_NAMESPACE": "1",
        "PMIX_SERVER_URI41": "1",
        "PMI_RANK": "0",
    }
    os.environ.update(settings | ranks)
    arguments(tmp_path / "engine")
    assert settings.items() <= dict(os.environ).items()
    assert not ranks.keys() & os.environ.keys()
    assert os.environ["TRTLLM_NO_USAGE_STATS"] == "1"


@pytest.mark.parametrize(
    ("version", "stages", "expected"), [("1_0", 1, None), ("1_0", 2, "1"), ("1_2", 2, None)]
)
def test_the_known_fault_of_pipelines_in_1_0(
    tmp_path: Path, version: str, stages: int, expected: str | None
) -> None:
    settings = {"behaviour": Behaviour(gpus=2), "pipeline_parallel_size": stages}
    arguments(tmp_path / "engine", version, **settings)
    assert os.environ.get("TRTLLM_LLAMA_EAGER_FUSION_DISABLED") == expected


def test_limits_hold_in_the_library_too(tmp_path: Path) -> None:
    limits = dataclasses.replace(LIMITS, max_batch_size=2, max_seq_len=100, max_num_tokens=32)
    given = arguments(tmp_path / "engine", limits=limits)
    assert (given["max_batch_size"], given["max_seq_len"], given["max_num_tokens"]) == (2, 100, 32)
