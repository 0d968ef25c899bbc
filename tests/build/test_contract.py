"""The committed configurations: upstream's tensors, wired rightly, and their table."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from contract import write_table as contract_table
from contract.write_table import read_configs, render
from host.console import BuildError
from token_engine.registry import RUNTIMES
from tritonclient.grpc import model_config_pb2

from tests.support.upstream_contract import CONTRACT, tensors

CONFIGS = read_configs()
STEPS = CONFIGS["ensemble"].ensemble_scheduling.step
# Room 2 knows them by other names, as upstream's does.
RENAMED = {"stream": "streaming", "top_k": "runtime_top_k", "top_p": "runtime_top_p"}


def declared(kind: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    name_of = model_config_pb2.DataType.Name
    return {t.name: (name_of(t.data_type).removeprefix("TYPE_"), tuple(t.dims)) for t in kind}


@pytest.mark.parametrize("model", CONTRACT)
def test_every_tensor_of_upstream_is_there_as_upstream_declares_it(model: str) -> None:
    inputs, outputs = CONTRACT[model]
    for lines, kind in ((inputs, CONFIGS[model].input), (outputs, CONFIGS[model].output)):
        ours = declared(kind)
        assert {name: ours.get(name) for name in tensors(lines)} == tensors(lines)


def test_both_entries_have_the_same_tensors() -> None:
    ensemble, unary = CONFIGS["ensemble"], CONFIGS["tensorrt_llm_bls"]
    assert declared(ensemble.input).items() <= declared(unary.input).items()
    assert declared(ensemble.output) == declared(unary.output)
    assert not unary.model_transaction_policy.decoupled
    assert CONFIGS["tensorrt_llm"].model_transaction_policy.decoupled


def test_the_ensemble_joins_tensors_of_one_type() -> None:
    """Between steps and client, each tensor keeps its type and dims."""
    types: dict[str, set[tuple[str, tuple[int, ...]]]] = {
        tensor: {spec}
        for kind in (CONFIGS["ensemble"].input, CONFIGS["ensemble"].output)
        for tensor, spec in declared(kind).items()
    }
    for step in STEPS:
        config = CONFIGS[step.model_name]
        for mapping, kind in ((step.input_map, config.input), (step.output_map, config.output)):
            specs = declared(kind)
            for inner, outer in mapping.items():
                types.setdefault(outer, set()).add(specs[inner])
    # preprocessing gives max_tokens as upstream's does, of any number of elements.
    assert types.pop("_request_output_len") == {("INT32", (-1,)), ("INT32", (1,))}
    assert {name for name, specs in types.items() if len(specs) != 1} == set()


def test_every_input_goes_to_one_room_and_every_output_comes_from_one() -> None:
    ensemble = CONFIGS["ensemble"]
    taken = [outer for step in STEPS for outer in step.input_map.values()]
    given = [outer for step in STEPS for outer in step.output_map.values()]
    assert {t.name: taken.count(t.name) for t in ensemble.input} == dict.fromkeys(
        (t.name for t in ensemble.input), 1
    )
    assert {t.name: given.count(t.name) for t in ensemble.output} == dict.fromkeys(
        (t.name for t in ensemble.output), 1
    )
    inside = {name for name in given if name.startswith("_")}
    assert inside == {name for name in taken if name.startswith("_")}


def test_room_2_gets_each_input_under_its_own_name() -> None:
    (room_2,) = (step for step in STEPS if step.model_name == "tensorrt_llm")
    wrong = {
        (inner, outer)
        for inner, outer in room_2.input_map.items()
        if not outer.startswith("_") and RENAMED.get(outer, outer) != inner
    }
    assert wrong == {("len_penalty", "length_penalty")}


def test_the_table_is_what_the_configurations_say() -> None:
    assert contract_table.TABLE.read_text(encoding="utf-8") == render(CONFIGS)


def test_a_tensor_without_description_stops_the_table() -> None:
    configs = read_configs()
    configs["ensemble"].input.add(name="new_input")
    with pytest.raises(BuildError, match=r"descriptions\.py: INPUTS lacks \['new_input'\]"):
        render(configs)


def change_field(
    runtime: str, field: str, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = dict(contract_table.honours(runtime))
    del changed[field]
    module = next(
        sys.modules[name]
        for name in (f"token_engine.{runtime}_runtime.sampling", f"token_engine.{runtime}")
        if name in sys.modules
    )
    monkeypatch.setattr(module, "HONOURS", changed if words is None else {**changed, field: words})


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("field", ["min_p", "seed", "presence_penalty", "token_bias", "guide"])
def test_a_runtime_whose_words_contradict_the_registry_stops_the_table(
    runtime: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_refused = contract_table.honours(runtime)[field].startswith("refused")
    change_field(runtime, field, "passed on" if is_refused else "refused", monkeypatch)
    with pytest.raises(BuildError, match=rf"{runtime}\S* says .* of {field}, registry.py '"):
        render(CONFIGS)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_field_that_a_runtime_does_not_describe_stops_the_table(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_field(runtime, "top_p", None, monkeypatch)
    with pytest.raises(BuildError, match=r"HONOURS of .* lacks \['top_p'\]"):
        render(CONFIGS)
