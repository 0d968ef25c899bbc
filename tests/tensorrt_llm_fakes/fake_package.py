"""A fake `tensorrt_llm` (and as much of torch as the adapter needs), made of recorded signatures.

`signatures_<version>.json` holds the names and defaults of the real classes, and where they were
read. A keyword that the real one lacks, a positional argument that is another one there, and a
default that was relied on fail here as they would there.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorrt_llm_fakes.fake_executor import Behaviour, Executor
from tensorrt_llm_fakes.fake_results import RequestError, RequestOutput
from tensorrt_llm_fakes.fake_sampler import Kind

HERE = Path(__file__).parent
REQUIRED = "<required>"
ENGINE_HINT = (
    "Please use 'from tensorrt_llm._tensorrt_engine import LLM' instead to use the TensorRT "
    "backend."
)
NO_TOKENIZER = (
    "tokenizer is required to reset end_id if it is None, or you can explicitly specify the "
    "end_id for sampling_params"
)


def load_signatures(version: str) -> dict[str, Any]:
    """`version` is 1_0, 1_2 or head."""
    path = HERE / f"signatures_{version}.json"
    signatures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return signatures


def signature(parameters: list[list[Any]]) -> inspect.Signature:
    """Of parameters that are given by position or by keyword."""
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if default == REQUIRED else default,
            )
            for name, default in parameters
        ]
    )


def keyword_dataclass(name: str, fields: dict[str, Any], **namespace: Any) -> Any:
    """With these fields and defaults, all of them keywords."""
    specs = [(field, Any, dataclasses.field(default=value)) for field, value in fields.items()]
    return dataclasses.make_dataclass(name, specs, kw_only=True, namespace=namespace)


def make_sampling_params(signatures: dict[str, Any]) -> Any:
    """`SamplingParams`: tensorrt_llm/sampling_params.py."""

    def post_init(self: Any) -> None:
        self.pad_id = self.end_id if self.pad_id is None else self.pad_id
        self.best_of = self.best_of or self.n
        for name in signatures["sampling_params_private"]:
            setattr(self, name, None)

    def get_bad_words(self: Any) -> list[list[int]]:
        words = [[token] for token in self.bad_token_ids or []]
        if self.bad is None:
            return words
        if self._bad_word_ids is None:
            raise RuntimeError("SamplingParams.bad is not processed by tokenizer")
        return words + list(self._bad_word_ids)

    return keyword_dataclass(
        "SamplingParams",
        signatures["sampling_params"],
        __post_init__=post_init,
        _get_bad_words=get_bad_words,
    )


class Package:
    """The modules of one version."""

    def __init__(self, version: str, behaviour: Behaviour) -> None:
        self.signatures = load_signatures(version)
        self.behaviour = behaviour
        self.sampling_params = make_sampling_params(self.signatures)
        self.llms: list[Any] = []  # in order of their making
        self.torch = make_torch(behaviour)

    @property
    def has_decoding_base_config(self) -> bool:
        return bool(self.signatures["sampler_argument"])

    def modules(self) -> dict[str, ModuleType]:
        """By the name they are imported under."""
        guided = keyword_dataclass(
            "GuidedDecodingParams", self.signatures["guided_decoding_params"]
        )
        torch_args = SimpleNamespace(
            model_fields={**self.signatures["llm_explicit"], **self.signatures["llm_arguments"]}
        )
        modules = {
            "torch": self.torch,
            "tensorrt_llm": module(
                "tensorrt_llm",
                __version__=self.signatures["version"],
                LLM=self.llm_class("pytorch"),
                SamplingParams=self.sampling_params,
                __path__=[],
                fake=self,
            ),
            "tensorrt_llm.llmapi": module(
                "tensorrt_llm.llmapi", GuidedDecodingParams=guided, __path__=[]
            ),
            "tensorrt_llm.llmapi.llm_args": module(
                "tensorrt_llm.llmapi.llm_args", TorchLlmArgs=torch_args
            ),
            "tensorrt_llm.executor": module("tensorrt_llm.executor", __path__=[]),
            "tensorrt_llm.executor.utils": module(
                "tensorrt_llm.executor.utils", RequestError=RequestError
            ),
        }
        if self.has_decoding_base_config:
            modules["tensorrt_llm.llmapi.llm_args"].__dict__["DecodingBaseConfig"] = DecodingConfig
        if self.signatures["tensorrt_arguments"]:
            name = "tensorrt_llm._tensorrt_engine"
            modules[name] = module(name, LLM=self.llm_class("tensorrt"))
        return modules

    def llm_class(self, backend: str) -> Any:
        """`LLM`, which knows its package."""
        package = self

        class BoundLLM(LLM):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(package, backend, args, kwargs)

        return BoundLLM


class DecodingConfig:
    """What `DecodingBaseConfig.from_dict` makes (1.0 to 1.2)."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DecodingConfig:
        values.pop("decoding_type")  # out of the caller's own table
        return cls(values)


class LLM:
    """tensorrt_llm/llmapi/llm.py: `_TorchLLM` and `_TrtLLM`."""

    def __init__(
        self, package: Package, backend: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._package = package
        self._backend = backend
        self.given = kwargs  # as the caller wrote them
        self.arguments = self._bind(args, kwargs)
        self.requests: list[tuple[list[int], Any]] = []
        self._executor: Executor | None = None
        self._check_values()
        config = json.loads((Path(self.arguments["model"]) / "config.json").read_text())
        wanted = self.arguments["tensor_parallel_size"] * self.arguments["pipeline_parallel_size"]
        if wanted > package.behaviour.gpus:
            raise RuntimeError(
                f"Only {package.behaviour.gpus} GPUs are available, but {wanted} are required."
            )
        self.tokenizer = None
        if not self.arguments["skip_tokenizer_init"]:
            self.tokenizer = SimpleNamespace(eos_token_id=2, pad_token_id=None)
        self._executor = Executor(
            self.arguments, self.kind, config["vocab_size"], package.behaviour
        )
        package.llms.append(self)

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        signatures = self._package.signatures
        explicit = signatures["llm_explicit"]
        more = signatures["llm_arguments" if self._backend == "pytorch" else "tensorrt_arguments"]
        named = {name: value for name, value in kwargs.items() if name in explicit}
        bound = signature([*map(list, explicit.items())]).bind(*args, **named)
        bound.apply_defaults()
        wrong = [name for name in kwargs if name in signatures["tensorrt_only"]]
        if wrong and self._backend == "pytorch":
            raise ValueError(
                "The following arguments are specific to TensorRT backend and cannot be used with "
                f"PyTorch backend: {wrong}.\n{ENGINE_HINT}"
            )
        for name in kwargs:
            if name not in explicit and name not in more:
                raise ValueError(f"{type(self)} got invalid argument: {name}")
        return {**more, **bound.arguments, **kwargs}

    def _check_values(self) -> None:
        for name, fields in self._package.signatures["configs"].items():
            table = self.arguments.get(name)
            for key in table or {}:
                if key not in fields:
                    raise ValueError(f"{name}.{key}: Extra inputs are not permitted")
        graphs = self.arguments.get("cuda_graph_config") or {}
        if graphs.get("batch_sizes") and graphs.get("max_batch_size"):
            raise ValueError(
                "Please don't set both cuda_graph_config.batch_sizes and "
                "cuda_graph_config.max_batch_size."
            )
        backend = self.arguments.get("guided_decoding_backend")
        if backend and self.arguments["skip_tokenizer_init"]:
            raise ValueError("Guided decoding requires a tokenizer")
        drafts = self.arguments.get("speculative_config")
        table = DecodingConfig if self._package.has_decoding_base_config else dict
        if drafts is not None and not isinstance(drafts, table):
            raise ValueError(f"speculative_config: Input should be a {table.__name__}")

    @property
    def kind(self) -> Kind:
        """Which sampler these arguments choose, in this version."""
        if self._backend == "tensorrt":
            return "cpp"
        match self._package.signatures["sampler_argument"]:
            case "enable_trtllm_sampler":
                return "cpp" if self.arguments["enable_trtllm_sampler"] else "greedy_torch"
            case "sampler_type":
                chosen = self.arguments["sampler_type"]
                return "cpp" if chosen == "TRTLLMSampler" else "early_torch"
        return "torch"

    def generate_async(self, *args: Any, **kwargs: Any) -> RequestOutput:
        bound = signature(self._package.signatures["generate_async"]).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        if self._executor is None or self._executor.doing_shutdown:
            raise RuntimeError("LLM is shutting down")
        if given["lora_request"] is not None:
            given["lora_request"].adapter_id  # noqa: B018
        prompt, params = given["inputs"], given["sampling_params"]
        if not isinstance(prompt, list):
            raise TypeError(f"The inputs must be type str or list of int, but got {type(prompt)}")
        assert isinstance(prompt[0], int)
        params = self._package.sampling_params() if params is None else params
        if params.end_id is None:
            if self.tokenizer is None:
                raise ValueError(NO_TOKENIZER)
            params.end_id = self.tokenizer.eos_token_id
        self._check_length(len(prompt))
        if self._backend == "tensorrt" and params.logprobs is not None:
            raise ValueError("sampling_params.logprobs requires gather_generation_logits=True")
        if params.guided_decoding is not None and not self.arguments["guided_decoding_backend"]:
            raise RequestError("Guided decoding is not enabled")
        self.requests.append((prompt, params))
        result = self._executor.submit(prompt, params)
        if not given["streaming"]:
            result.result()
        return result

    def _check_length(self, length: int) -> None:
        limit = self.arguments["max_num_tokens"]
        if not self.arguments["enable_chunked_prefill"] and length > limit:
            raise ValueError(
                f"The sum of prompt length ({length}.0), query length (0) should not exceed "
                f"max_num_tokens ({limit})"
            )

    def get_stats_async(self, timeout: float | None = 2) -> Any:
        assert self._executor is not None
        return self._executor.aget_stats(timeout or 0.0)

    def _check_health(self) -> bool:
        executor = self._executor
        return executor is not None and not executor.doing_shutdown and not executor.dead

    def shutdown(self) -> None:
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None


class FakeTensor:
    """What `torch.from_numpy` makes."""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.values = values
        self.dtype = str(values.dtype)


def make_torch(behaviour: Behaviour) -> ModuleType:
    """As much of torch as the adapter needs."""

    def from_numpy(values: Any) -> FakeTensor:
        assert isinstance(values, np.ndarray), f"expected np.ndarray (got {type(values)})"
        return FakeTensor(values)

    cuda = SimpleNamespace(device_count=lambda: behaviour.gpus)
    return module("torch", from_numpy=from_numpy, cuda=cuda)


def module(name: str, **values: Any) -> ModuleType:
    """A module with these values."""
    made = ModuleType(name)
    made.__dict__.update(values)
    return made


def install(version: str, behaviour: Behaviour) -> Package:
    """Put the modules where `import` finds them, in this process."""
    package = Package(version, behaviour)
    remove()
    sys.modules.update(package.modules())
    return package


def remove() -> None:
    """Take them away again."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt_llm"]:
        del sys.modules[name]
    sys.modules.pop("torch", None)
