"""Write model_repository/TENSORS.md: where each tensor goes, its default, range and runtimes.

It is generated from the committed config.pbtxt files, contract/descriptions.py, and each runtime's
HONOURS and line in the registry, which must agree. --check only compares; its exit code is 1 if the
file is stale.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from engines.engine_json import RUNTIMES
from google.protobuf import text_format
from host.console import BuildError, run_script, say
from token_engine.interface import GenerationRequest, SamplingParams
from tritonclient.grpc import model_config_pb2

from contract.descriptions import (
    INPUTS,
    OUTPUTS,
    REFUSED,
    ROOM,
    STEP_INPUTS,
    STEP_OUTPUTS,
    Input,
)

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
TABLE = REPOSITORY / "TENSORS.md"
ROOMS = ("preprocessing", "tensorrt_llm", "postprocessing")
MODELS = ("ensemble", "tensorrt_llm_bls", *ROOMS)
Tensors = list[tuple[str, Any]]
# Fields of a runtime's request that no client sets; no HONOURS describes them.
UNDESCRIBED = {"key", "prompt_ids", "sampling"}
FEATURE_FIELDS = {"embedding_bias": "token_bias", "guided_decoding": "guide"}  # others: their name
SAMPLING_FIELDS = ("temperature", "top_k", "top_p", "seed")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="only compare; exit code 1 if stale")
    options = parser.parse_args()
    text = render(read_configs())
    if not options.check:
        TABLE.write_text(text, encoding="utf-8")
        say(f"{TABLE} is written")
    elif TABLE.read_text(encoding="utf-8") != text:
        raise BuildError(f"{TABLE} is stale; write it with 'make table'")


def read_configs() -> dict[str, Any]:
    """The models' configurations, parsed, by name."""
    return {name: _parse(REPOSITORY / name / "config.pbtxt") for name in MODELS}


def _parse(path: Path) -> Any:
    return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def render(configs: dict[str, Any]) -> str:
    """The whole file; raises `BuildError` for a tensor without description, or the reverse."""
    ensemble, unary = configs["ensemble"], configs["tensorrt_llm_bls"]
    own = [tensor for tensor in unary.input if tensor.name not in _names(ensemble.input)]
    _same(INPUTS, [tensor.name for tensor in [*ensemble.input, *own]], "INPUTS")
    _same(OUTPUTS, [tensor.name for tensor in ensemble.output], "OUTPUTS")
    step_inputs, step_outputs = _step_tensors(configs)
    return HEAD + "\n".join(
        [
            "## Inputs of `ensemble` and `tensorrt_llm_bls`\n",
            *_table(_input_rows(ensemble, own)),
            "\n## Outputs of `ensemble` and `tensorrt_llm_bls`\n",
            *_table(_output_rows(ensemble)),
            "\n## Inputs of the steps that no client's input fills\n",
            *_table(_step_input_rows(step_inputs)),
            "\n## Outputs of the steps that stay inside\n",
            *_table(
                [
                    ("output", "type", "what it is"),
                    *((f"`{name}`", _type(t), STEP_OUTPUTS[name]) for name, t in step_outputs),
                ]
            ),
            *_runtime_tables(),
            "",
        ]
    )


def _step_tensors(configs: dict[str, Any]) -> tuple[Tensors, Tensors]:
    """The inputs of steps that no client fills, and the outputs that stay inside."""
    mapped = {
        f"{step.model_name}.{key}"
        for step in configs["ensemble"].ensemble_scheduling.step
        for key, value in step.input_map.items()
        if not value.startswith("_")
    }
    inputs = [
        (f"{room}.{tensor.name}", tensor)
        for room in ROOMS
        for tensor in configs[room].input
        if f"{room}.{tensor.name}" not in mapped
    ]
    _same(STEP_INPUTS, [name for name, _ in inputs], "STEP_INPUTS")
    outputs = [
        (f"{room}.{tensor.name}", tensor)
        for room in ROOMS[:2]
        for tensor in configs[room].output
        if tensor.name not in OUTPUTS
    ]
    _same(STEP_OUTPUTS, [name for name, _ in outputs], "STEP_OUTPUTS")
    return inputs, outputs


def _input_rows(ensemble: Any, own: list[Any]) -> Iterator[tuple[str, ...]]:
    yield ("input", "type", "goes to", "default", "must be", *RUNTIMES, "meaning")
    ways = {
        value: f"{step.model_name}.`{key}`"
        for step in ensemble.ensemble_scheduling.step
        for key, value in step.input_map.items()
    }
    for tensor in [*ensemble.input, *own]:
        way = ways.get(tensor.name, "`tensorrt_llm_bls` only")
        yield _row(f"`{tensor.name}`", tensor, (way,), INPUTS[tensor.name])


def _step_input_rows(tensors: list[tuple[str, Any]]) -> Iterator[tuple[str, ...]]:
    yield ("input", "type", "default", "must be", *RUNTIMES, "meaning")
    for name, tensor in tensors:
        yield _row(f"`{name}`", tensor, (), STEP_INPUTS[name])


def _row(name: str, tensor: Any, way: tuple[str, ...], words: Input) -> tuple[str, ...]:
    honoured = [_honoured(words.by, runtime) for runtime in RUNTIMES]
    return (name, _type(tensor), *way, words.default, words.must_be, *honoured, words.meaning)


def _honoured(by: str, runtime: str) -> str:
    if by == REFUSED:
        return "refused"
    return "yes" if by == ROOM else outcome(runtime, by)


def request_fields() -> set[str]:
    """The fields that every HONOURS describes."""
    types = (GenerationRequest, SamplingParams)
    return {one.name for kind in types for one in fields(kind)} - UNDESCRIBED


def honours(runtime: str) -> dict[str, str]:
    """The runtime's HONOURS; raises `BuildError` if its fields are not `request_fields()`."""
    module = importlib.import_module(_home(runtime))
    words: dict[str, str] = module.HONOURS
    missing, left = request_fields() - words.keys(), words.keys() - request_fields()
    if missing or left:
        raise BuildError(
            f"HONOURS of {module.__name__} lacks {sorted(missing)} and has {sorted(left)} too "
            "many; correct it there"
        )
    return words


def _home(runtime: str) -> str:
    return "token_engine." + ("replay" if runtime == "replay" else f"{runtime}_runtime.sampling")


def outcome(runtime: str, feature: str) -> str:
    """Whether a feature, or "sampling", is honoured: "yes", "no effect" or "refused".

    Raises `BuildError` if HONOURS and the registry disagree."""
    words, line = honours(runtime), RUNTIMES[runtime]
    names = SAMPLING_FIELDS if feature == "sampling" else (FEATURE_FIELDS.get(feature, feature),)
    registered = "yes" if line.samples else "no effect"
    if feature != "sampling" and feature not in line.features:
        registered = "refused"
    for name in names:
        described = next((o for o in ("refused", "no effect") if words[name].startswith(o)), "yes")
        if described != registered:
            raise BuildError(
                f"HONOURS of {_home(runtime)} says {described!r} of {name}, registry.py "
                f"{registered!r}; correct the one that is wrong"
            )
    return registered


def _runtime_tables() -> Iterator[str]:
    for runtime in RUNTIMES:
        yield f"\n## What `{runtime}` makes of a request\n"
        yield from _table([("field", "in the runtime"), *honours(runtime).items()])


def _output_rows(ensemble: Any) -> Iterator[tuple[str, ...]]:
    yield ("output", "type", "comes from", "sent with", "what it is")
    ways = {
        value: f"{step.model_name}.`{key}`"
        for step in ensemble.ensemble_scheduling.step
        for key, value in step.output_map.items()
    }
    for tensor in ensemble.output:
        when, what = OUTPUTS[tensor.name]
        yield (f"`{tensor.name}`", _type(tensor), ways[tensor.name], when, what)


def _type(tensor: Any) -> str:
    name = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    return f"{name} {list(tensor.dims)}"


def _names(tensors: Iterable[Any]) -> set[str]:
    return {tensor.name for tensor in tensors}


def _same(words: Iterable[str], tensors: list[str], where: str) -> None:
    missing, left = set(tensors) - set(words), set(words) - set(tensors)
    if missing or left:
        raise BuildError(
            f"descriptions.py: {where} lacks {sorted(missing)} and has {sorted(left)} too many; "
            "correct it there"
        )


def _table(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    head, *body = rows
    for row in (head, ("---",) * len(head), *body):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


HEAD = """# The contract: every tensor

<!-- Written by build/contract/write_table.py ('make table'); 'make check' fails if stale. -->

The three rooms and `ensemble` keep the names, types and dims of upstream's tensorrtllm_backend
(v0.19 to 1.2), so its clients work unchanged. `ensemble` streams; `tensorrt_llm_bls` takes the
same inputs and gives exactly one response. Triton refuses unary `infer()` for every model that can
stream, so clients that call it must name `tensorrt_llm_bls`, or use a repository made with
`assemble_repository.py --unary`. In such a repository `ensemble` and `tensorrt_llm` give one
response per request and echo the prompt unless `exclude_input_in_output` is true, as upstream does
by default. They refuse `stream` true, a batch of more than one row and `num_return_sequences`
above 1.

All tensors have a batch dimension first (`[1, 1]` for one prompt, up to 64 rows), except
`text_output`, which is `[n]` as upstream's is.

A runtime's column says `yes` (supported), `refused` (UNSUPPORTED for any value but the default) or
`no effect`.

**Errors.** A wrong value is refused with INVALID_ARG and one sentence that names the input, its
value and what it must be. A full queue or a restarting engine gives UNAVAILABLE. Unary gRPC and
HTTP `infer` carry the code; a gRPC stream and HTTP `generate` do not. (`generate` answers 400; 500
if the body is not JSON; 200 with an `error` after a first response.) With the parameter
`named_errors` set to true, messages begin with the code: `[INVALID_ARG] ...`.

**Parameters.** `id` is a second name, besides the request id, by which `tensorrt_llm`'s `stop`
finds the request. `Streaming` and `accumulate_tokens`, which upstream's clients send, have no
effect. `cancel_id`, `one_response` and `stream_key` are for the rooms' own use. All others are
refused by name, except those that Triton hides from models: `priority`, `timeout` and the
protocol's `sequence_*` have no effect. Use the inputs `priority` and `timeout_ms` instead.

**A client that leaves.** Triton 2.51 tells the rooms that a gRPC client has left `ensemble` only
with the request's next response. Until then a request that is not streamed, or still waits, runs
on. `stop` with its id, `timeout_ms` or leaving a call of `tensorrt_llm_bls` ends it at once.

**Batches and several sequences.** `ensemble` gives a response for each sequence, marked with
`batch_index` and `sequence_index`; the last response has the final flag. `tensorrt_llm_bls` puts
all sequences into its one response: each output has a row for each sequence, ordered by prompt and
then by sequence. (Upstream's refuses a batch and ignores `num_return_sequences`.) A client that
reads only `[0]` gets the first prompt's first sequence, so it must ask for one row and one
sequence. Over HTTP, use `tensorrt_llm_bls` for several sequences: `generate` takes one response
from a model and fails on the second one of `ensemble`.

"""

if __name__ == "__main__":
    run_script(main)
