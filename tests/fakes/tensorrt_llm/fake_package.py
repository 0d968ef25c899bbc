"""A fake `tensorrt_llm` (and as much of torch as the adapter needs), made of recorded signatures.

`libraries/signatures/tensorrt_llm_<version>.json` (1_0, 1_2 and head) holds the names and defaults
of the real classes, and where they were read. A keyword that the real one lacks, a positional
argument that is another one there, and a default that was relied on fail here as they would there.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.fakes.libraries import signatures
from tests.fakes.libraries.grammars import grammar_packages
from tests.fakes.libraries.signatures import load_signatures, module
from tests.fakes.tensorrt_llm.fake_executor import Behaviour
from tests.fakes.tensorrt_llm.fake_llm import LLM, DecodingConfig
from tests.fakes.tensorrt_llm.fake_results import RequestError


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


def make_build_config(signatures: dict[str, Any]) -> Any:
    """`BuildConfig`: tensorrt_llm/builder.py."""
    return keyword_dataclass("BuildConfig", signatures["build_config"])


class Package:
    """The modules of one version."""

    def __init__(self, version: str, behaviour: Behaviour) -> None:
        self.signatures = load_signatures(f"tensorrt_llm_{version}")
        self.behaviour = behaviour
        self.sampling_params = make_sampling_params(self.signatures)
        self.llms: list[Any] = []  # in order of their making
        self.torch = make_torch(behaviour)

    @property
    def has_decoding_base_config(self) -> bool:
        return bool(self.signatures["sampler_argument"])

    def modules(self) -> dict[str, ModuleType]:
        """By the name they are imported under."""
        engines = bool(self.signatures["tensorrt_arguments"])
        guided = keyword_dataclass(
            "GuidedDecodingParams", self.signatures["guided_decoding_params"]
        )
        torch_args = SimpleNamespace(
            model_fields={**self.signatures["llm_explicit"], **self.signatures["llm_arguments"]}
        )
        modules = grammar_packages() | {
            "torch": self.torch,
            "tensorrt_llm": module(
                "tensorrt_llm",
                __version__=self.signatures["version"],
                LLM=self.llm_class("pytorch"),
                **({"BuildConfig": make_build_config(self.signatures)} if engines else {}),
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
        arguments = modules["tensorrt_llm.llmapi.llm_args"].__dict__
        if self.has_decoding_base_config:
            arguments["DecodingBaseConfig"] = DecodingConfig
        else:
            fields = dict.fromkeys(("advanced_sampling_mode", "allow_advanced_sampling"))
            arguments["DecodingBaseConfig"] = SimpleNamespace(model_fields=fields)
        graphs = self.signatures["configs"].get("cuda_graph_config", {})
        arguments["CudaGraphConfig"] = SimpleNamespace(model_fields=graphs)
        if engines:
            of_engines = {*self.signatures["tensorrt_arguments"], *self.signatures["tensorrt_only"]}
            arguments["TrtLlmArgs"] = SimpleNamespace(model_fields=dict.fromkeys(of_engines))
        if engines:
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

    cuda = SimpleNamespace(
        device_count=lambda: behaviour.gpus,
        get_device_capability=lambda device=None: tuple(behaviour.compute_capability),
    )
    return module("torch", from_numpy=from_numpy, cuda=cuda)


def install(version: str, behaviour: Behaviour) -> Package:
    """Put the modules where `import` finds them, in this process."""
    package = Package(version, behaviour)
    remove()
    signatures.install(package.modules())
    return package


def remove() -> None:
    """Remove all modules of the fake."""
    signatures.remove("tensorrt_llm", "torch", "xgrammar", "llguidance")
