"""The installed TensorRT-LLM: the only module that imports it and knows how its versions differ.

If a difference came with a field, the code looks for that field, because a release has many
candidates (1.3.0rc1 to rc20) and only one of them added it.

    1.0        samplers: `enable_trtllm_sampler` chooses; without it every request is greedy
    1.0, 1.1   presence and frequency penalties count the prompt (no `prompt_ignore_length`)
    1.0 - 1.3  engines of trtllm-build: `tensorrt_llm._tensorrt_engine`, up to 1.3.0rc20
    1.0        pipeline parallelism of an NVFP4 Llama needs TRTLLM_LLAMA_EAGER_FUSION_DISABLED=1
    1.1 - 1.3  samplers: `sampler_type` chooses, up to 1.3.0rc24; what "auto" is differs
    1.1, 1.2   TorchSampler: temperature, top_k and top_p; other parameters and seeds are ignored
    1.2        kv_cache_config.dtype "nvfp4" brings a warning and no effect
    1.3        usage statistics are sent unless TRTLLM_NO_USAGE_STATS=1
    1.3 on     TorchSampler alone, from 1.3.0rc26 on, with everything but seeds: its kernel
               (FlashInfer 0.6.15) draws the whole batch by the first request's
    1.4        `cuda_graph_config` has a `mode`, and no default for a table without it
    1.4        drafts are always sampled as requests say: `allow_advanced_sampling` is without
               effect, but `advanced_sampling_mode` silently drops top_k or top_p, and all but
               its "fused" refuse min_p
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import re
from dataclasses import dataclass
from typing import Any, Literal

from token_engine.interface import EngineLoadError
from token_engine.library_results import not_as_known, release_of
from token_engine.tensorrt_llm_runtime.options import TensorRtLlmOptions

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
# Left by an mpirun that started the server: with them the library takes this process for a rank
# of that job and waits for the others. Settings (OMPI_MCA_...) stay.
RANK_VARIABLES = re.compile(r"(OMPI_COMM_WORLD_|OMPI_UNIVERSE_|PMIX_(RANK|NAMESPACE|SERVER)|PMI_)")


@dataclass(frozen=True)
class SamplerAbilities:
    """What a sampler honours. The library accepts everything else and ignores it."""

    name: str
    samples: bool = True  # False: it always takes the likeliest token
    top_k: bool = True
    top_p: bool = True
    # Whether equal ones draw equal tokens in any batch; such a sampler has a fixed one by default.
    seeds: bool = False
    min_p: bool = True
    repetition_penalty: bool = True
    occurrence_penalties: bool = True  # presence and frequency, of the output alone
    bad_words: bool = True
    bad_sequences: bool = True  # bad words of several tokens
    token_bias: bool = True
    logprobs: bool = True
    top_logprobs: bool = True
    logprobs_are_raw: bool = True  # of the logits before temperature
    logprobs_of_chosen: int = 0  # the value of `logprobs` that gives the chosen token's alone
    simple_logprobs: bool = False  # whether those can come as numbers instead of tables
    chosen_has_logprob: bool = True  # even if it is none of the likeliest
    largest_top_k: int = 0  # larger ones are cut to it; 0: none is
    temperature_first: bool = False  # penalties are subtracted after the division by it


# In C++, and the only one with everything until 1.4. It reports the chosen token's probability
# after temperature and penalties.
CPP_SAMPLER = SamplerAbilities(
    "TRTLLMSampler",
    seeds=True,
    top_logprobs=False,
    logprobs_are_raw=False,
    logprobs_of_chosen=1,
    largest_top_k=1024,
    temperature_first=True,
)
EARLY_TORCH_SAMPLER = SamplerAbilities(
    "TorchSampler",
    min_p=False,
    repetition_penalty=False,
    occurrence_penalties=False,
    bad_words=False,
    bad_sequences=False,
    logprobs_of_chosen=1,
    chosen_has_logprob=False,
)
TORCH_SAMPLER = SamplerAbilities("TorchSampler")
ENGINE_SAMPLER = dataclasses.replace(
    CPP_SAMPLER,
    name="sampler of a TensorRT engine",
    logprobs=False,  # they need an engine that keeps all logits
)


@dataclass(frozen=True)
class Library:
    """The installed version, and what it can do for the chosen options."""

    version: str
    llm: Any  # the class
    sampling_params: Any  # the class
    guided_decoding_params: Any  # the class
    request_error: type[Exception]  # of one request; any other exception is of the whole engine
    torch: Any
    argument_names: frozenset[str]  # of the LLM, with either backend
    sampler: SamplerAbilities
    sampler_arguments: dict[str, Any]  # of the LLM, to get that sampler
    graphs_have_modes: bool  # whether a `cuda_graph_config` must say which of two it is

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor number."""
        return release_of(self.version)


def import_library(options: TensorRtLlmOptions) -> Library:
    """Raises `EngineLoadError` if it is not installed, too old, or lacks what the options name."""
    _prepare_environment()
    try:
        package = importlib.import_module("tensorrt_llm")
        version = str(package.__version__)
        torch = importlib.import_module("torch")
        llmapi = importlib.import_module("tensorrt_llm.llmapi")
        errors = importlib.import_module("tensorrt_llm.executor.utils")
    except Exception as error:  # MPI and CUDA raise exceptions of many kinds at import
        raise EngineLoadError(
            f"TensorRT-LLM cannot be imported ({_first_line(error)}); serve from the image {IMAGE}"
        ) from error
    if release_of(version) < (1, 0):
        raise EngineLoadError(
            f"TensorRT-LLM is {version} and must be 1.0 or later; serve from the image {IMAGE}"
        )
    if options.pipeline_parallel_size > 1 and release_of(version) == (1, 0):
        os.environ.setdefault("TRTLLM_LLAMA_EAGER_FUSION_DISABLED", "1")
    try:
        return _read_library(options, version, package, llmapi, errors, torch)
    except (AttributeError, ImportError, TypeError) as error:  # names that a version has moved
        instead = f"serve from the image {IMAGE}"
        raise EngineLoadError(not_as_known("TensorRT-LLM", version, error, instead)) from error


def _read_library(
    options: TensorRtLlmOptions, version: str, package: Any, llmapi: Any, errors: Any, torch: Any
) -> Library:
    llm = package.LLM if options.backend == "pytorch" else _engine_class(version)
    sampler, arguments = _choose_sampler(options, version, package.SamplingParams)
    return Library(
        version,
        llm,
        package.SamplingParams,
        llmapi.GuidedDecodingParams,
        errors.RequestError,
        torch,
        _argument_names(),
        sampler,
        arguments,
        "mode" in _fields_of("CudaGraphConfig"),
    )


def _fields_of(name: str) -> Any:
    """The fields of a configuration class of the library; none if it has no such class."""
    module = importlib.import_module("tensorrt_llm.llmapi.llm_args")
    return getattr(getattr(module, name, None), "model_fields", {})


def _argument_names() -> frozenset[str]:
    module = importlib.import_module("tensorrt_llm.llmapi.llm_args")
    return frozenset(module.TorchLlmArgs.model_fields).union(_fields_of("TrtLlmArgs"))


def _prepare_environment() -> None:
    os.environ["TRTLLM_NO_USAGE_STATS"] = "1"
    for name in [name for name in os.environ if RANK_VARIABLES.match(name)]:
        del os.environ[name]


def _engine_class(version: str) -> Any:
    try:
        return importlib.import_module("tensorrt_llm._tensorrt_engine").LLM
    except ImportError as error:
        raise EngineLoadError(
            f"TensorRT-LLM {version} has no TensorRT engines any more (1.2 was the last release "
            "that had); "
            "set runtime_options.backend to 'pytorch', with the checkpoint itself"
        ) from error


def _choose_sampler(
    options: TensorRtLlmOptions, version: str, params: Any
) -> tuple[SamplerAbilities, dict[str, Any]]:
    """The sampler, and the arguments that choose it. "auto" is the one that honours most."""
    if options.backend == "tensorrt":
        return _with_fields_of(params, ENGINE_SAMPLER), {}
    arguments: dict[str, Any]
    match _sampler_argument(), options.sampler_type:
        case "enable_trtllm_sampler", "TorchSampler":
            raise EngineLoadError(
                f"the TorchSampler of TensorRT-LLM {version} makes every request greedy; "
                "set runtime_options.sampler_type to 'auto'"
            )
        case "enable_trtllm_sampler", _:
            sampler, arguments = CPP_SAMPLER, {"enable_trtllm_sampler": True}
        case "sampler_type", "TorchSampler":
            sampler, arguments = EARLY_TORCH_SAMPLER, {"sampler_type": "TorchSampler"}
            if release_of(version) < (1, 2):
                sampler = dataclasses.replace(sampler, token_bias=False)
        case "sampler_type", _:
            sampler, arguments = CPP_SAMPLER, {"sampler_type": "TRTLLMSampler"}
        case _, "TRTLLMSampler":
            raise EngineLoadError(
                f"TensorRT-LLM {version} has no TRTLLMSampler any more; "
                "set runtime_options.sampler_type to 'auto'"
            )
        case _:
            sampler, arguments = TORCH_SAMPLER, {}
    if options.speculative_config:
        # Drafts have their own samplers; TRTLLMSampler cannot be chosen with them.
        return _speculative(options.speculative_config), {}
    return _with_fields_of(params, sampler), arguments


def _sampler_argument() -> Literal["enable_trtllm_sampler", "sampler_type", ""]:
    arguments = _fields_of("TorchLlmArgs")
    if "enable_trtllm_sampler" in arguments:
        return "enable_trtllm_sampler"
    # It is left for older callers, and takes only "auto" and "TorchSampler".
    extra = getattr(arguments.get("sampler_type"), "json_schema_extra", None) or {}
    chooses = "sampler_type" in arguments and extra.get("status") != "deprecated"
    return "sampler_type" if chooses else ""


def _speculative(config: dict[str, Any]) -> SamplerAbilities:
    always = "advanced_sampling_mode" in _fields_of("DecodingBaseConfig")
    advanced = always or config.get("allow_advanced_sampling") is True
    mode = str(config.get("advanced_sampling_mode", "full"))
    return SamplerAbilities(
        "speculative decoding" + (f", advanced_sampling_mode {mode}" if mode != "full" else ""),
        samples=advanced,
        top_k="no_topk" not in mode,
        top_p="no_topp" not in mode,
        min_p=mode == "fused",
        repetition_penalty=False,
        occurrence_penalties=False,
        bad_words=False,
        bad_sequences=False,
        token_bias=False,
        logprobs=False,
        top_logprobs=False,
    )


def _with_fields_of(params: Any, sampler: SamplerAbilities) -> SamplerAbilities:
    """The abilities without those that this version's `SamplingParams` cannot express."""
    names = {field.name for field in dataclasses.fields(params)}
    simple = "logprobs_simple_format" in names and not sampler.logprobs_of_chosen
    counts_output_alone = sampler.occurrence_penalties and "prompt_ignore_length" in names
    return dataclasses.replace(
        sampler,
        simple_logprobs=simple,
        occurrence_penalties=counts_output_alone,
        bad_sequences=sampler.bad_sequences and _takes_bad_sequences(params),
    )


def _takes_bad_sequences(params: Any) -> bool:
    """Whether bad words of several ids work in the field that the library's tokenizer would fill.

    There is no public field for them. This tries the library itself, so that the words are refused,
    and not ignored, with a version that keeps them elsewhere.
    """
    try:
        probe = with_bad_sequences(params(end_id=0, max_tokens=1), [[1, 2]])
        return bool(probe._get_bad_words() == [[1, 2]])
    except Exception:
        return False


def with_bad_sequences(params: Any, words: list[list[int]]) -> Any:
    """Give `params` bad words of several ids; see `_takes_bad_sequences`."""
    params.bad = []  # words were given as text; these are their ids
    params._bad_word_ids = words
    return params


def speculative_config(config: dict[str, Any]) -> Any:
    """The library's own object, if it does not make one from a table itself (1.0 to 1.2)."""
    module = importlib.import_module("tensorrt_llm.llmapi.llm_args")
    make = getattr(getattr(module, "DecodingBaseConfig", None), "from_dict", None)
    return make(dict(config)) if make is not None else config


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
