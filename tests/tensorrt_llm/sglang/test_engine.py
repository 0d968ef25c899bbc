"""The SGLang runtime on a fake of the library: the shared suite, and SGLang's own behaviour.

The fake is made of recorded signatures and behaves as the library's sources say
(tests/fakes/libraries). What only hardware can show is not shown here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_config import EngineConfigError
from token_engine.interface import (
    EngineLoadError,
    Guide,
    SamplingParams,
    UnsupportedParameter,
)
from token_engine.sglang_runtime import loop as sglang_loop
from token_engine.sglang_runtime.library import import_library
from token_engine.sglang_runtime.options import RESERVED_ARGUMENTS, SglangOptions

from tests.fakes.libraries.rigs import Rig, prompt, start_sglang, subject_of, write_model
from tests.fakes.libraries.signatures import remove
from tests.fakes.libraries.worker import Behaviour
from tests.support.engine_answers import drain
from tests.support.library_suite import LibrarySuite
from tests.support.processes import eventually
from tests.support.runtime_suite import SAMPLED, RuntimeSuite, Subject

Start = Callable[..., Rig]
SUBJECT: dict[str, Any] = {
    "tells_first_pass": False,
    "always_ends": (2, 3, 4),
    "top_p_of_all": True,
    "lacks": frozenset({"min_p"}),
}
# Without deterministic inference.
FASTER: dict[str, Any] = {"lacks": frozenset(), "seeds": False, "draw_error": 0.1}
FAST = {"enable_deterministic_inference": False}
FLOAT8 = {"type": "float", "num_bits": 8}
NVFP4: dict[str, Any] = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr(sglang_loop, "LOADS_PAUSE_S", 0.001)
    rigs: list[Rig] = []

    def make(**settings: Any) -> Rig:
        rigs.append(start_sglang(tmp_path / "engine", **settings))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.engine.shutdown()
    remove("sglang", "torch")


class TestSglang(RuntimeSuite, LibrarySuite):
    """Its library reports no death: it ends the whole process."""

    runtime = "sglang"
    library = "SGLang"
    behaviour = Behaviour

    @pytest.fixture
    def subject(self, started: Start) -> Subject:
        return subject_of("sglang", started(behaviour=Behaviour(step_seconds=0.002)), **SUBJECT)

    def break_aborts(self, rig: Rig, monkeypatch: pytest.MonkeyPatch, fails: Any) -> None:
        monkeypatch.setattr(rig.llm.tokenizer_manager, "abort_request", fails)

    @pytest.mark.parametrize("backend", ["xgrammar", "llguidance", "outlines"])
    def test_any_json(self, started: Start, backend: str) -> None:
        """With every grammar backend, because only xgrammar knows the library's own word for it."""
        subject = subject_of("sglang", started(grammar_backend=backend), **SUBJECT)
        one = subject.request(prompt(5), 60, end_ids=subject.eos, guide=Guide("json"))
        (answer,) = subject.answer(one)
        schema = json.loads(bytes(answer.tokens))
        assert [each["type"] for each in schema["anyOf"]] == ["object", "array"]

    def test_a_guide_holds(self, subject: Subject) -> None:
        for kind, text, expected in (
            ("json_schema", '{"a": 1}', b'{"a": 1}'),
            ("regex", "[ab]+", b"[ab]+"),
            ("ebnf_grammar", "root ::= x", b"root ::= x"),
            ("choice", '["a.", "c"]', b"(a\\.|c)"),
        ):
            guide = Guide(kind, text)  # type: ignore[arg-type]
            one = subject.request(prompt(5), 40, end_ids=subject.eos, guide=guide)
            (answer,) = subject.answer(one)
            assert (bytes(answer.tokens), answer.reason) == (expected, "stop")


class TestWithoutDeterministicInference:
    """Here min_p is honoured, and a seed is not."""

    @pytest.fixture
    def subject(self, started: Start) -> Subject:
        rig = started(enable_deterministic_inference=False)
        return subject_of("sglang", rig, **(SUBJECT | FASTER))

    @pytest.mark.parametrize(
        "sampling",
        [
            replace(SAMPLED, temperature=1.8, top_k=8, top_p=0.9),
            replace(SAMPLED, temperature=1.5, min_p=0.05, top_k=6, top_p=0.8),
        ],
        ids=str,
    )
    def test_draws(self, subject: Subject, sampling: SamplingParams) -> None:
        subject.top_p_of_all = not sampling.min_p
        TestSglang().test_sampling_follows_the_plain_definition(subject, sampling)

    def test_seeds(self, subject: Subject) -> None:
        TestSglang().test_seeds_over_the_whole_range(subject)
        TestSglang().test_without_a_seed_no_two_requests_draw_alike(subject)

    def test_the_largest_bias_does_not_end_the_engine(self, subject: Subject) -> None:
        """A larger bias, divided by the temperature, is infinite, and the distribution invalid."""
        hot = replace(SAMPLED, temperature=0.001)
        one = subject.request(prompt(5), 3, sampling=hot, token_bias=((7, -1e30), (8, 1e30)))
        (answer,) = subject.answer(one)
        assert answer.tokens == [8, 8, 8]


def ask(rig: Rig, key: int, length: int, max_tokens: int, **more: Any) -> None:
    one = subject_of("sglang", rig).request(prompt(length, key), max_tokens, **more)
    rig.engine.submit(replace(one, key=key))


def test_the_arguments_that_the_library_gets(started: Start) -> None:
    rig = started(mem_fraction_static=0.8, more_server_args={"random_seed": 5})
    args = rig.llm.server_args
    assert (args.max_running_requests, args.chunked_prefill_size) == (4, 64)
    assert (args.mem_fraction_static, args.random_seed) == (0.8, 5)
    # Priorities of room 2 are -100 to 100, and by its own 10 a running request would be ended.
    assert args.priority_scheduling_preemption_threshold > 200
    assert args.sampling_defaults == "openai"  # else the checkpoint's temperature changes requests
    ask(rig, 1, 5, 30, end_ids=(7, 2, 3, 4), priority=3)
    drain(rig.engine)
    ids, params, given = rig.llm.requests[-1]
    assert (ids, given["priority"]) == (list(prompt(5, 1)), 3)
    assert (params.max_new_tokens, params.stop_token_ids, params.ignore_eos) == (
        30,
        [7, 2, 3, 4],
        False,
    )


def test_a_request_gets_every_token_up_to_the_limit(started: Start) -> None:
    """The library cuts off two tokens of its context, and refuses the last seven of a prompt."""
    rig = started()
    for key, length in enumerate((1, 300, 599)):
        ask(rig, key, length, 600 - length)
        assert len(drain(rig.engine)[key].tokens) == 600 - length


@pytest.mark.parametrize(
    ("options", "more", "expected"),
    [
        (
            {},
            {"sampling": replace(SAMPLED, repetition_penalty=1.5)},
            "repetition_penalty is 1.5; with the sglang runtime it must be 1",
        ),
        ({}, {"bad_words": ((5,),)}, "bad_words is given; the sglang runtime"),
        (
            {"enable_deterministic_inference": False},
            {"sampling": replace(SAMPLED, seed=3)},
            "seed is 3; with the sglang runtime it must be none: its engine has enable_determ",
        ),
        (
            {},
            {"sampling": replace(SAMPLED, min_p=0.1)},
            "min_p is 0.1; with the sglang runtime it must be 0: .* where every request has a seed",
        ),
        (
            {},
            {"sampling": replace(SAMPLED, min_p=0.1, seed=3)},
            "min_p is 0.1; .* cannot draw with",
        ),
        (
            {},
            {"guide": Guide("json")},
            "ignore_eos is true; with the sglang runtime it must be false",
        ),
        (
            {},
            {"guide": Guide("json"), "end_ids": (2,), "min_tokens": 2},
            "min_tokens is 2; with the sglang runtime it must be 0 with a guide",
        ),
        (
            {"grammar_backend": "none"},
            {"guide": Guide("regex", "a"), "end_ids": (2,)},
            "guided_decoding_guide_type is regex; with the sglang runtime it must be none",
        ),
        (
            {},
            {"logprobs": 0, "sampling": replace(SAMPLED, presence_penalty=1.0)},
            "return_log_probs is true.* must be false with presence_penalty",
        ),
        ({}, {"logprobs": 0, "token_bias": ((5, 1.0),)}, "it must be false with embedding_bias"),
        *(
            (
                {"more_server_args": {"speculative_algorithm": "NGRAM"}, **FAST},
                {"sampling": sampling},
                f"{name} is 0.5; with the sglang runtime it must be 0 with a speculative_algorithm",
            )
            for name, sampling in (
                ("min_p", replace(SAMPLED, min_p=0.5)),
                ("presence_penalty", replace(SAMPLED, presence_penalty=0.5)),
                ("frequency_penalty", SamplingParams(frequency_penalty=0.5)),
            )
        ),
        # It ends at the checkpoint's own ids too, unless it ends at none at all.
        (
            {},
            {"end_ids": (7,)},
            "ignore_eos is true; .* it must be false with a stop word that is a sp",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    started: Start, options: dict[str, Any], more: dict[str, Any], expected: str
) -> None:
    rig = started(**options)
    with pytest.raises(UnsupportedParameter, match=expected):
        ask(rig, 1, 4, 5, **more)
    assert not rig.engine.has_work


def test_requests_that_fail_end_alone(started: Start) -> None:
    """One fails by the engine's fault, one by its own, which the library sees only later."""
    rig = started(behaviour=Behaviour(fail={7: 3}))
    bad = subject_of("sglang", rig).request((7, *prompt(4)), 9)
    rig.engine.submit(bad)
    ask(rig, 2, 4, 9)
    ask(rig, 3, 601, 9)  # room 2 lets no such prompt in
    answers = drain(rig.engine)
    assert (answers[bad.key].error, answers[bad.key].fault) == ("NaN in the logits", "engine")
    assert len(answers[2].tokens) == 9
    assert answers[3].fault == "invalid"
    assert "Input length (601 tokens)" in answers[3].error


@pytest.mark.parametrize("end_ids", [(), (2, 3, 4)])
def test_logits_that_are_not_numbers_are_no_end_of_the_text(
    started: Start, end_ids: tuple[int, ...]
) -> None:
    """The library ends such a request as if a stop word had come, with an end id as its token."""
    rig = started(behaviour=Behaviour(nan={7: 3}))
    bad = subject_of("sglang", rig).request((7, *prompt(4)), 9, end_ids=end_ids)
    rig.engine.submit(bad)
    ask(rig, 2, 4, 9)
    answers = drain(rig.engine)
    assert (answers[bad.key].reason, answers[bad.key].fault) == ("error", "engine")
    assert answers[bad.key].error == "SGLang ended the request: NaN happened"
    assert len(answers[bad.key].tokens) <= 2  # outputs that wait are joined
    assert len(answers[2].tokens) == 9


def test_figures_that_fail_once_come_again(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """They show life during a long prefill too, without which the engine would count as lost."""
    rig = started(behaviour=Behaviour(step_seconds=0.002))
    manager = rig.llm.tokenizer_manager
    get_loads, asked = manager.get_loads, []

    async def fails_once() -> Any:
        asked.append(1)
        if len(asked) == 1:
            raise TimeoutError("the scheduler is busy")
        return await get_loads()

    monkeypatch.setattr(manager, "get_loads", fails_once)
    ask(rig, 1, 4, 500)
    eventually(lambda: rig.engine.stats().active_requests == 1, "a figure after the failure")
    rig.engine.cancel(1)


def test_an_abort_before_the_library_has_the_request_is_made_again(started: Start) -> None:
    rig = started(behaviour=Behaviour(step_seconds=0.1))
    for key in range(30):
        ask(rig, key, 4, 500)
        rig.engine.cancel(key)
    eventually(lambda: rig.llm.worker.counts == (0, 0) and not rig.llm._states, "nothing left")


def test_a_cancel_takes_no_other_request_with_it(started: Start) -> None:
    """The library aborts every request whose id begins with the one that is named."""
    rig = started(behaviour=Behaviour(step_seconds=0.002))
    keys = (1, 10, 123)
    for key in keys:
        ask(rig, key, 4, 300)
    eventually(lambda: rig.llm.worker.counts == (3, 0), "all of them run")
    rig.engine.cancel(1)
    answers = drain(rig.engine)
    assert {key: answer.reason for key, answer in answers.items()} == {10: "length", 123: "length"}


def test_incremental_output_is_shorter(started: Start) -> None:
    """Without it each output has everything so far, and tokens would come twice."""
    rig = started(behaviour=Behaviour(step_seconds=0.002))
    rig.llm.server_args.incremental_streaming_output = False
    ask(rig, 1, 4, 10)
    assert len(drain(rig.engine)[1].tokens) > 10


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dtype": "fp32"}, "dtype is 'fp32' and must be one of 'auto'"),
        ({"quantization": "awq"}, "quantization is 'awq' and must be one of '', 'modelopt_fp4'"),
        ({"fp4_gemm_runner_backend": "x"}, "fp4_gemm_runner_backend is 'x'"),
        ({"grammar_backend": ""}, "grammar_backend is ''"),
        ({"mem_fraction_static": 1}, "mem_fraction_static is 1.0 and must be 0 and up, below 1"),
        ({"tensor_parallel_size": 2}, "unknown key 'tensor_parallel_size'"),
        ({"page_sizes": 2}, "did you mean 'page_size'"),
        *(
            ({"more_server_args": {name: 1}}, f"more_server_args is .*no {name}: ")
            for name in (*RESERVED_ARGUMENTS, "tp_size")
        ),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(EngineConfigError, match=expected):
        start_sglang(tmp_path / "engine", **options)


@pytest.mark.parametrize(
    ("behaviour", "options", "expected"),
    [
        (
            Behaviour(capability=(7, 5)),
            {},
            r"capability 7\.5 and must have 8\.0 or later for NVFP4",
        ),
        (Behaviour(capability=None), {}, r"0 GPUs are visible and tp_size 1 times .* needs 1"),
        (Behaviour(gpus=1), {"tp_size": 2}, r"1 GPUs are visible and tp_size 2 .* needs 2"),
        (Behaviour(gpus=9), {"tp_size": 9}, r"SGLang 0\.5\.23 cannot load .*Rank 0 scheduler"),
        (Behaviour(), {"more_server_args": {"hf_tokn": 1}}, r"has no argument 'hf_tokn'"),
    ],
)
def test_a_machine_that_does_not_fit(
    tmp_path: Path, behaviour: Behaviour, options: dict[str, Any], expected: str
) -> None:
    folder = write_model(tmp_path / "engine", **NVFP4)
    with pytest.raises(EngineLoadError, match=expected) as error:
        start_sglang(folder, behaviour, **options)
    assert "\n" not in str(error.value)


def test_the_longest_context_leaves_the_librarys_reserve(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "engine", max_position_embeddings=606)
    with pytest.raises(EngineLoadError, match=r"max_seq_len is 600 and must be at most 599"):
        start_sglang(folder)
    write_model(folder, max_position_embeddings=607)
    start_sglang(folder).engine.shutdown()


def write_scales(folder: Path, value: float, dtype: str = "F32") -> None:
    """A checkpoint's file with the scales of one layer, k first; and where they are read from."""
    packed = {"F32": np.float32(value).tobytes(), "BF16": np.float32(value).tobytes()[2:]}[dtype]
    names = [f"model.layers.0.self_attn.{name}" for name in ("k_proj.k_scale", "v_proj.v_scale")]
    size = len(packed)
    header = {
        name: {"dtype": dtype, "shape": [], "data_offsets": [place * size, (place + 1) * size]}
        for place, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + packed * 2
    (folder / "model.safetensors").write_bytes(content)


FP8 = {"quantization_config": {**NVFP4["quantization_config"], "kv_cache_scheme": FLOAT8}}


def modelopt(**facts: Any) -> dict[str, Any]:
    """A config.json with these facts about its quantization."""
    return {"quantization_config": {**NVFP4["quantization_config"], **facts}}


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize(
    ("config", "cache", "fits"),
    [
        (FP8, "auto", True),
        (FP8, "fp8_e4m3", True),
        (FP8, "fp8_e5m2", True),
        (FP8, "bfloat16", False),
        (FP8, "nvfp4", False),
        # "auto" is then a cache of the model's own bits, and the scales are read all the same.
        (NVFP4, "auto", False),
        (NVFP4, "fp8_e4m3", True),
        (modelopt(kv_cache_scheme=" float8 "), "auto", True),
        (modelopt(kv_cache_quant_algo="fp8"), "auto", True),
        # SGLang takes these for a cache of 16 bits.
        (modelopt(kv_cache_quant_algo="FLOAT8"), "auto", False),
        (modelopt(kv_cache_scheme="", kv_cache_quant_algo="FP8"), "auto", False),
        (modelopt(kv_cache_scheme={}, kv_cache_quant_algo="FP8"), "auto", False),
        (modelopt(kv_cache_scheme={**FLOAT8, "num_bits": 4}), "auto", False),
    ],
)
def test_a_cache_whose_scales_would_be_applied_on_one_side_alone(
    tmp_path: Path, config: dict[str, Any], cache: str, fits: bool, dtype: str
) -> None:
    """Its answers would be silently wrong."""
    folder = write_model(tmp_path / "engine", **config)
    for value in (1.0, 0.25):
        write_scales(folder, value, dtype)
        if fits or value == 1:
            start_sglang(folder, kv_cache_dtype=cache).engine.shutdown()
        else:
            said = (
                rf"kv_cache_dtype is '{cache}' and .*\.k_scale of the checkpoint is 0\.25; "
                "with KV scales other than 1 it must be 'fp8_e4m3'"
            )
            with pytest.raises(EngineLoadError, match=said):
                start_sglang(folder, kv_cache_dtype=cache)


def test_the_places_that_name_the_kv_caches_bits(tmp_path: Path) -> None:
    """SGLang reads hf_quant_config.json only if config.json says nothing of quantization."""
    folder = write_model(tmp_path / "engine")
    write_scales(folder, 0.25)
    (folder / "hf_quant_config.json").write_text(
        json.dumps({"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}})
    )
    start_sglang(folder).engine.shutdown()
    write_model(folder, **NVFP4)
    with pytest.raises(EngineLoadError, match="kv_cache_dtype is 'auto'"):
        start_sglang(folder)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, b"\2" + b"\0" * 7 + b"[]", b"\1" + b"\0" * 7 + b"{"]
)
def test_a_checkpoint_that_cannot_be_read_for_its_scales(tmp_path: Path, content: bytes) -> None:
    folder = write_model(tmp_path / "engine")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(EngineLoadError, match=r"model\.safetensors cannot be read .*fetch the"):
        start_sglang(folder)


def test_marlin_is_named_where_the_gpu_has_no_fp4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "engine", **NVFP4)
    start_sglang(folder, Behaviour(capability=(9, 0)), quantization="modelopt_fp4")
    assert "(sm90) has no FP4 tensor cores: the Marlin kernel" in capsys.readouterr().err
    start_sglang(folder, Behaviour(capability=(10, 0))).engine.shutdown()
    assert capsys.readouterr().err == ""


def test_every_option_is_an_argument_of_the_library(started: Start) -> None:
    ours = {"model_directory", "more_server_args"}
    fields = set(SglangOptions.__dataclass_fields__) - ours
    rig = started()
    assert fields <= set(rig.package.server_args.__struct_fields__)


def test_versions(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    started()
    monkeypatch.setattr(sys.modules["sglang"], "__version__", "0.5.9.post1")
    with pytest.raises(EngineLoadError, match=r"SGLang is 0\.5\.9\.post1 and must be 0\.5\.23"):
        import_library()
    monkeypatch.setitem(sys.modules, "sglang.srt.entrypoints.engine", None)
    with pytest.raises(EngineLoadError, match=r"SGLang cannot be imported .*install sglang"):
        import_library()


@pytest.mark.parametrize(
    ("module", "name"),
    [("sglang.srt.server_args", "ServerArgs"), ("sglang.srt.entrypoints.engine", "Engine")],
)
def test_a_version_that_moved_a_name_is_named(
    started: Start, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    started()
    monkeypatch.delattr(sys.modules[module], name)
    monkeypatch.setattr(sys.modules["sglang"], "__version__", "0.6.0")
    said = (
        rf"SGLang 0\.6\.0 is not as this runtime knows it \(.*{name}.*\); install sglang 0\.5\.23"
    )
    with pytest.raises(EngineLoadError, match=said):
        import_library()
