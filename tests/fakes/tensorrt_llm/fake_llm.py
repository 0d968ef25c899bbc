"""`LLM` of the fake package: both backends, bound to the recorded signatures.

Source: tensorrt_llm/llmapi/llm.py of the versions that the signatures name.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.fakes.libraries.signatures import bound
from tests.fakes.libraries.spawned import spawn_a_process
from tests.fakes.tensorrt_llm.fake_executor import Executor
from tests.fakes.tensorrt_llm.fake_results import RequestError, RequestOutput
from tests.fakes.tensorrt_llm.fake_sampler import Kind

if TYPE_CHECKING:
    from tests.fakes.tensorrt_llm.fake_package import Package

ENGINE_HINT = (
    "Please use 'from tensorrt_llm._tensorrt_engine import LLM' instead to use the TensorRT "
    "backend."
)
DECODING_TYPES = ("MTP", "Medusa", "Eagle", "Lookahead", "NGram", "DraftTarget", "User_Provided")
NO_TOKENIZER = (
    "tokenizer is required to reset end_id if it is None, or you can explicitly specify the "
    "end_id for sampling_params"
)


class DecodingConfig:
    """What `DecodingBaseConfig.from_dict` makes (1.0 to 1.2)."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DecodingConfig:
        kind = values.pop("decoding_type")  # out of the caller's own table
        if kind not in DECODING_TYPES:
            raise ValueError(f"Invalid decoding type: {kind}")
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
        self.priorities: list[float | None] = []  # of these
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
            self.arguments,
            self.kind,
            config["vocab_size"],
            package.behaviour,
            ends_on_guides=package.signatures["version"].startswith("1.0"),
        )
        package.llms.append(self)
        if package.behaviour.spawns:
            spawn_a_process(package.behaviour.spawns)

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        signatures = self._package.signatures
        explicit = signatures["llm_explicit"]
        more = signatures["llm_arguments" if self._backend == "pytorch" else "tensorrt_arguments"]
        named = {name: value for name, value in kwargs.items() if name in explicit}
        given = bound([[*item, "position"] for item in explicit.items()], args, named)
        wrong = [name for name in kwargs if name in signatures["tensorrt_only"]]
        if wrong and self._backend == "pytorch":
            raise ValueError(
                "The following arguments are specific to TensorRT backend and cannot be used with "
                f"PyTorch backend: {wrong}.\n{ENGINE_HINT}"
            )
        for name in kwargs:
            if name not in explicit and name not in more:
                raise ValueError(f"{type(self)} got invalid argument: {name}")
        return {**more, **given, **kwargs}

    def _check_values(self) -> None:
        for name, fields in self._package.signatures["configs"].items():
            table = self.arguments.get(name)
            for key in table or {}:
                if key not in fields:
                    raise ValueError(f"{name}.{key}: Extra inputs are not permitted")
        graphs = self.arguments.get("cuda_graph_config") or {}
        modes = "mode" in self._package.signatures["configs"].get("cuda_graph_config", {})
        if "cuda_graph_config" in self.given and graphs and modes and "mode" not in graphs:
            raise ValueError("cuda_graph_config: Unable to extract tag using discriminator 'mode'")
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
        parameters = [[*one, "position"] for one in self._package.signatures["generate_async"]]
        given = bound(parameters, args, kwargs)
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
        self.priorities.append(given.get("priority"))
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

    def save(self, engine_dir: str) -> None:
        """`_TrtLLM.save`: what was built, and the checkpoint's tokenizer (llmapi/llm_utils.py)."""
        assert self._backend == "tensorrt"
        folder = Path(engine_dir)
        folder.mkdir(parents=True, exist_ok=True)
        source = Path(self.arguments["model"])
        for path in source.glob("tokenizer*"):
            shutil.copyfile(path, folder / path.name)
        built = dataclasses.asdict(self.arguments["build_config"])
        vocab = json.loads((source / "config.json").read_text())["vocab_size"]
        document = {"vocab_size": vocab, "build_config": built}
        (folder / "config.json").write_text(json.dumps(document))
        (folder / "rank0.engine").write_bytes(b"engine")

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None
