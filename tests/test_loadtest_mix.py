"""A mix of workloads: who gets which arrival, what is refused, the figures of each in real runs.

The truth about a run's figures is records.jsonl, counted and sorted here by plain Python.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from arrivals import Schedule, unit_arrivals
from compare import failing, load, parse_conditions, ratios, table
from conftest import DEMO_CHECKPOINT, ROOT
from exchange import Exchange
from journeys import Journey
from load_round import LoadRound, RoundPlan
from load_runs import FREE, Ended, records, run, summary
from load_source import LoadSource
from options import OptionError, RunOptions
from records import RequestRecord
from report import write_report
from results import RunResults
from run_files import read_run
from run_folders import HEADER, made_up, write_run
from server_process import ServerProcess
from slo import good, parse_slo, parse_slos
from traffic_results import OF_A_WORKLOAD
from web_rows import rows
from workload_mix import chosen, parse_mix
from workloads import Conversation

TOKENIZER = str(DEMO_CHECKPOINT / "tokenizer.json")
COUNT = 20_000
MIX = "64/8=3,chat=1,32/6=0.5"
SHORT_MIX = ("-t", "2s", "--rate", "30", "--warmup", "0.5", "--turns", "2", "--think-time", "0.05")
REPLAYED = "16/4=2,replay=1"
LOADS = {
    "one process": ("--json-file", "FOLDER/locust"),
    "two processes": ("--processes", "2"),
    "replayed": ("--workload", REPLAYED, "--replay", "RECORDING"),
    "closed": ("--closed-loop", "-u", "4", "--faults", "slow_reader=0.3"),
    "bound": ("--slo", "ttft:p99<1000s,64/8:e2e:p50<1us"),
    "hopeless": (
        *("--workload", "64/8=3,32/6=1", "--slo", "32/6:e2e:p50<1us", "-t", "60s"),
        "--stop-when-saturated",
    ),
    "search": ("--workload", "64/8=3,32/6=1", "--slo", "32/6:e2e:p50<1us", "--find-max-rate"),
}


def mixed(workload: str = MIX, **changed: Any) -> LoadSource:
    return LoadSource(RunOptions(workload=workload, tokenizer=TOKENIZER, **changed))


def recording(folder: Path, lines: int) -> str:
    path = folder / "traffic.jsonl"
    path.write_text(
        "".join(
            json.dumps({"at": number, "prompt": f"line {number}", "max_tokens": 3}) + "\n"
            for number in range(lines)
        ),
        encoding="utf-8",
    )
    return str(path)


def texts(conversation: Conversation) -> list[str]:
    return [turn.prompt for turn in conversation.turns]


@pytest.mark.parametrize(("seed", "every"), [(0, 1), (1, 1), (2, 1), (0, 2), (1, 3)])
def test_the_shares_are_the_weights_also_in_a_workers_part(seed: int, every: int) -> None:
    shares = parse_mix("mlperf-server=7, chat=2, 128/128=1")
    assert shares == pytest.approx({"mlperf-server": 0.7, "chat": 0.2, "128/128": 0.1})
    numbers = range(0, COUNT * every, every)
    seen = collections.Counter(chosen(number, seed, shares) for number in numbers)
    squares = (
        (seen[name] - COUNT * share) ** 2 / (COUNT * share) for name, share in shares.items()
    )
    assert sum(squares) < 13.8  # chi square of two degrees of freedom, 0.1 percent
    again = collections.Counter(chosen(number, seed + 9, shares) for number in numbers)
    assert again != seen


def test_neighbours_are_chosen_apart_from_each_other() -> None:
    shares = parse_mix("chat,128/128")
    names = [chosen(number, 5, shares) for number in range(COUNT)]
    same = sum(a == b for a, b in itertools.pairwise(names))
    assert abs(same - COUNT / 2) < 3.3 * math.sqrt(COUNT) / 2


def test_arrivals_are_the_same_on_one_and_on_three_workers(tmp_path: Path) -> None:
    replay = recording(tmp_path, 5)

    def sent(index: int, count: int) -> dict[int, tuple[float, Conversation]]:
        source = mixed("64/8=3,replay=2,chat=1", replay=replay, seed=4)
        units = itertools.islice(unit_arrivals("poisson", 4), 90)
        return {
            number: (unit, source.mix.conversation(number))
            for number, unit in Schedule(units, index, count).arrivals()
        }

    whole = sent(0, 1)
    parts = [sent(index, 3) for index in range(3)]
    assert parts[0] | parts[1] | parts[2] == whole
    conversations = [conversation for _, (_, conversation) in sorted(whole.items())]
    assert {each.workload for each in conversations} == {"64/8", "replay", "chat"}
    # The recording is played line after line, whatever comes between.
    played = [texts(each)[0] for each in conversations if each.workload == "replay"]
    assert played == [f"line {number % 5}" for number in range(len(played))]
    assert len(played) > 10


def test_keys_and_words_of_a_mix_do_not_collide() -> None:
    source = mixed("64/8,32/6,chat", distinct_prompts=5, turns=2)
    everything = list(source.mix.distinct_conversations())
    assert collections.Counter(each.workload for each in everything) == dict.fromkeys(
        ("64/8", "32/6", "chat"), 5
    )
    assert source.mix.distinct == len(everything) == 15
    turns = [turn for each in everything for turn in each.turns]
    assert len({turn.key for turn in turns}) == len(turns) == 20
    begins = {turn.prompt[:20] for turn in turns}
    assert len(begins) == len(turns), "equal beginnings would be found in the prefix cache"
    drawn = {source.mix.conversation(number).turns[0].key for number in range(400)}
    assert drawn == {each.turns[0].key for each in everything}


def test_a_single_workload_is_what_it_was() -> None:
    alone, weighted = mixed("chat"), mixed("chat=3")
    assert [alone.mix.conversation(number) for number in range(9)] == [
        weighted.mix.conversation(number) for number in range(9)
    ]
    assert {turn.key for turn in alone.mix.conversation(3).turns} <= {
        f"{index}/{turn}" for index in range(32) for turn in range(3)
    }
    generator = random.Random("text/0/0")
    number = generator.gauss(48, 16)
    assert len(texts(next(alone.mix.distinct_conversations()))[0].split()) == round(number)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"workload": "chat=2,chat=1"}, "'chat' twice, allowed is once"),
        ({"workload": "chat=2,128/128=x"}, "the weight of 128/128 is 'x', expected as 128/128=2"),
        ({"workload": "chat=,128/128"}, "the weight of chat is '', expected as chat=2"),
        ({"workload": "chat=0,128/128"}, "the weight of chat is 0, allowed is a number above 0"),
        ({"workload": "chat=-1"}, "the weight of chat is -1, allowed"),
        ({"workload": "chat=inf,128/128"}, "the weight of chat is inf, allowed"),
        ({"workload": "chat=nan,128/128"}, "the weight of chat is nan, allowed"),
        ({"workload": "chat=1,,128/128"}, "has an empty part, expected as"),
        ({"workload": ""}, "has an empty part"),
        ({"workload": "chat=1,=2"}, "has an empty part"),
        ({"workload": "chat,quick=2"}, "the workload is 'quick', allowed is one of mlperf-server"),
        ({"workload": "chat,0/5=2"}, "allowed are lengths of at least 1"),
        ({"workload": "chat,replay"}, "needs a recording: --replay FILE"),
        ({"workload": "replay"}, "needs a recording: --replay FILE"),
        ({"workload": "chat,128/128", "replay": "x"}, "is a mix without replay; expected as"),
        ({"workload": "chat,replay", "replay": "x", "arrivals": "trace"}, "--arrivals is trace"),
        (
            {"workload": "chat,128/128", "slos": "64/8:ttft<1s"},
            "is of the workload '64/8', allowed is one of chat, 128/128",
        ),
    ],
)
def test_a_wrong_mix_is_named(changed: dict[str, str], named: str) -> None:
    with pytest.raises(OptionError) as raised:
        mixed(**changed)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_objective_may_be_of_one_workload() -> None:
    (bound,) = parse_slos("chat:ttft:p99 < 50ms", ["chat"])
    assert (bound.workload, bound.metric, bound.percent) == ("chat", "ttft", 99.0)
    assert parse_slo("128/128:itl<1s").workload == "128/128"
    assert parse_slo("ttft:p99<1s").workload == parse_slo("ttft<1s").workload == ""
    with pytest.raises(ValueError, match="is on 'chat'"):
        parse_slo("chat:p99<1s")
    late = RequestRecord(request_id="1", workload="chat", scheduled_at=0.0, first_token_at=0.06)
    assert not good(late, [bound])
    assert good(dataclasses.replace(late, workload="128/128"), [bound])


def mixed_records(count: int = 150) -> list[RequestRecord]:
    generator = random.Random(3)
    return [
        dataclasses.replace(record, workload=generator.choice(["chat", "128/128", "chat"]))
        for record in made_up(count, failed=2)
    ]


def test_workers_workloads_merge_to_those_of_one() -> None:
    header = {**HEADER, "workloads": {"chat": 0.6, "128/128": 0.4}, "slos": ["chat:ttft<100ms"]}
    one, parts = RunResults(header), [RunResults(header) for _ in range(3)]
    for number, record in enumerate(mixed_records()):
        one.add(record)
        parts[number % 3].add(record)
    merged = RunResults()
    for part in parts:
        merged.merge(RunResults.decode(part.encode()))
    told = merged.summary()
    assert told == one.summary()
    assert told["workloads"]["chat"]["metrics"] != told["workloads"]["128/128"]["metrics"]
    (slo,) = told["slos"]
    assert slo["value_s"] == told["workloads"]["chat"]["metrics"]["ttft"]["p99"]


@pytest.mark.parametrize("header", [True, False])
def test_a_killed_mix_is_read_back_by_workload(tmp_path: Path, header: bool) -> None:
    made = mixed_records()
    folder = write_run(tmp_path / "run", made, finished=False)
    if header:
        document = {**HEADER, "workload": "chat=2,128/128", "workloads": {"chat": 2, "128/128": 1}}
        (folder / "header.json").write_text(json.dumps(document), encoding="utf-8")
    told = read_run(folder).summary
    for name in ("chat", "128/128"):
        ours = [each for each in made if each.workload == name and each.phase != "warmup"]
        assert told["workloads"][name]["counts"]["scheduled"] == len(ours)
        assert told["workloads"][name]["counts"]["warmup"] > 0
    page = write_report(folder).read_text(encoding="utf-8")
    assert "By workload" in page
    p99 = told["workloads"]["chat"]["metrics"]["ttft"]["p99"]
    assert f"{p99 * 1e3:,.1f}" in page
    table = {row["metric"]: row for row in rows(told)}
    assert table["chat: ttft"]["p99"] == f"{p99 * 1e3:,.1f}"
    assert table["128/128: requests"]["value"].startswith(
        f"{told['workloads']['128/128']['counts']['scheduled']:,}, "
    )


@pytest.mark.parametrize("with_records", [True, False])
def test_mixes_are_compared_workload_by_workload(tmp_path: Path, with_records: bool) -> None:
    made = mixed_records(400)
    slower = [
        dataclasses.replace(each, first_token_at=2 * each.first_token_at - each.scheduled_at)
        if each.workload == "chat" and each.first_token_at is not None
        else each
        for each in made
    ]
    paths = [
        write_run(tmp_path / name, records_, workloads={"chat": 2 / 3, "128/128": 1 / 3})
        for name, records_ in (("a", made), ("b", slower))
    ]
    first, second = (load(path if with_records else path / "summary.json") for path in paths)
    found = {(each.workload, each.metric, each.statistic): each for each in ratios(first, second)}
    of_chat, of_other = found["chat", "ttft", "p90"], found["128/128", "ttft", "p90"]
    assert of_chat.ratio == pytest.approx(2.0, rel=0.002)
    assert of_other.ratio == 1.0
    assert 1.0 < found["", "ttft", "p50"].ratio < 2.0
    assert of_chat.changed == with_records
    assert not of_other.changed
    assert "chat: ttft" in table(list(found.values()))
    conditions = parse_conditions("chat:ttft:p90>1.5, 128/128:ttft:p90>1.5, ttft:p90>3")
    assert failing(conditions, list(found.values())) == [
        f"FAILED chat:ttft:p90>1.5: the ratio is {of_chat.ratio:.3f}"
    ]


def test_a_condition_on_a_workload_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", made_up(60))
    script = [sys.executable, str(ROOT / "loadtest" / "compare.py"), str(path), str(path)]
    done = subprocess.run([*script, "--fail-if", "chat:ttft:p99>2"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "is of the workload 'chat', allowed is one that both runs are mixes of" in done.stderr


def test_one_workload_has_no_figures_apart(tmp_path: Path) -> None:
    run_ = read_run(write_run(tmp_path / "run", made_up(60), workloads={"128/128": 1.0}))
    assert run_.summary["workloads"] == {}
    assert "By workload" not in write_report(tmp_path / "run").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def loads(
    replay_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Ended]]]:
    url, folder = replay_server.ports.url("grpc"), tmp_path_factory.mktemp("mixes")
    played = recording(folder, 3)
    with ThreadPoolExecutor(4) as pool:
        futures = {}
        for name, arguments in LOADS.items():
            place = folder / name.replace(" ", "-")
            filled = [
                each.replace("FOLDER", str(place)).replace("RECORDING", played)
                for each in arguments
            ]
            futures[name] = pool.submit(
                run, url, place, *FREE, "--workload", MIX, *SHORT_MIX, *filled
            )
        yield futures


def plain_percentile(values: list[float], percent: float) -> float:
    """Nearest rank."""
    return sorted(values)[max(math.ceil(round(len(values) * percent / 100, 6)), 1) - 1]


def assert_told(told: dict[str, Any], ours: list[RequestRecord], header: dict[str, Any]) -> None:
    """Counts, percentiles and rates of a workload are those of its records."""
    start = header["warmup_s"]
    end = start + header["duration_s"]
    measured = [each for each in ours if each.phase != "warmup"]
    assert told["counts"]["scheduled"] == len(measured) > 0
    assert told["counts"]["warmup"] == len(ours) - len(measured)
    assert told["counts"]["completed"] == sum(not each.error_class for each in measured)
    assert told["counts"]["output_tokens"] == sum(each.num_output_tokens for each in measured)
    for name in OF_A_WORKLOAD:
        values = [
            value
            for each in measured
            for value in (each.itl if name == "itl" else (getattr(each, name),))
            if value is not None
        ]
        assert told["metrics"][name]["count"] == len(values)
        # A busy server may send an answer in one response, which has no gap.
        for percent in (50.0, 90.0, 99.0) if values else ():
            assert told["metrics"][name][f"p{percent:g}"] == pytest.approx(
                plain_percentile(values, percent), rel=0.0005
            )
    tokens = sum(count for each in ours for at, count in each.token_times() if start <= at < end)
    assert told["rates"]["output_tokens_per_s"] == pytest.approx(tokens / header["duration_s"])


@pytest.mark.parametrize("name", ["one process", "two processes", "replayed", "closed", "bound"])
def test_each_workloads_figures_are_those_of_its_records(
    loads: dict[str, Future[Ended]], name: str
) -> None:
    code, text, folder = loads[name].result()
    assert code == (1 if name == "bound" else 0), text
    told, kept = summary(folder), records(folder)
    normal = [each for each in kept if each.journey == "normal"]
    shares = parse_mix(REPLAYED if name == "replayed" else MIX)
    assert list(told["workloads"]) == list(shares)
    assert {each.workload for each in kept} == set(shares)
    for workload, figures in told["workloads"].items():
        ours = [each for each in normal if each.workload == workload]
        assert_told(figures, ours, told["header"])
        assert f"Of them {workload}:" in text
    counts = [each["counts"]["scheduled"] for each in told["workloads"].values()]
    assert sum(counts) == told["counts"]["scheduled"]
    assert {each.correct for each in normal} == {True}
    assert "By workload" in (folder / "report.html").read_text(encoding="utf-8")
    again = read_run(folder)
    assert again.results is not None
    assert again.results.summary()["workloads"] == told["workloads"]


def test_one_and_two_processes_send_the_same(loads: dict[str, Future[Ended]]) -> None:
    def sent(name: str) -> dict[str, tuple[str, int]]:
        _, _, folder = loads[name].result()
        return {
            each.request_id: (each.workload, each.num_input_tokens)
            for each in records(folder)
            if each.turn == 0
        }

    assert sent("one process") == sent("two processes")
    shares = parse_mix(MIX)
    for request_id, (workload, _) in sent("two processes").items():
        seed, _, number, _, _ = request_id.split("-")
        assert workload == chosen(int(number), int(seed), shares)


def test_locusts_own_statistics_have_a_row_for_each(loads: dict[str, Future[Ended]]) -> None:
    _, _, folder = loads["one process"].result()
    entries = json.loads((folder / "locust.json").read_text(encoding="utf-8"))
    told = {entry["name"]: entry["num_requests"] for entry in entries}
    assert told == collections.Counter(each.workload for each in records(folder))


def test_every_workloads_texts_are_checked(loads: dict[str, Future[Ended]]) -> None:
    _, _, folder = loads["one process"].result()
    # Four distinct conversations of each, those of the chat with two turns.
    assert summary(folder)["header"]["texts_compared"] == 4 + 4 * 2 + 4


def test_an_objective_of_one_workload_breaks_alone(loads: dict[str, Future[Ended]]) -> None:
    code, text, folder = loads["bound"].result()
    assert code == 1, text
    assert "held    ttft:p99<1000s" in text
    assert "BROKEN  64/8:e2e:p50<1us" in text
    told = summary(folder)["workloads"]
    assert [told[name]["rates"]["goodput_share"] for name in parse_mix(MIX)] == [0.0, 1.0, 1.0]


def test_a_hopeless_objective_of_one_workload_ends_the_load(
    loads: dict[str, Future[Ended]],
) -> None:
    code, text, folder = loads["hopeless"].result()
    assert code == 1, text
    assert "stopped early: 32/6:e2e:p50<1us is broken by" in text
    planned = collections.Counter(
        chosen(number, 0, parse_mix("64/8=3,32/6=1"))
        for number, unit in enumerate(itertools.islice(unit_arrivals("poisson", 0), 3000))
        if 0.5 <= unit / 30 < 60
    )
    late = planned["32/6"] - math.ceil(planned["32/6"] / 2)
    assert f"allowed are {late}" in text
    assert sum(each.workload == "32/6" for each in records(folder)) > late


def test_a_search_judges_the_workload_alone(loads: dict[str, Future[Ended]]) -> None:
    code, text, folder = loads["search"].result()
    assert code == 1, text
    assert "no rate held the SLOs" in text
    assert "32/6:e2e:p50<1us" in text
    assert "By workload" in (folder / "report.html").read_text(encoding="utf-8")


def test_what_waits_is_late_for_its_own_workloads_limit_alone() -> None:
    """A request that has waited for a second is not late for a limit of a minute."""
    slos = ["ttft:p50<1s", "ttft:p99<60s", "chat:ttft<2s", "e2e<1s"]
    plan = RoundPlan(
        number=1,
        options=RunOptions(warmup_s=0.0),
        header={**HEADER, "slos": slos},
        started_unix=time.time() - 10,
        index=0,
        count=1,
        name="0",
        rate=1.0,
    )
    current = LoadRound(plan, mixed(), cast(Any, None), lambda _: None)
    for number, workload in enumerate(["chat", "64/8", "64/8"]):
        turn = next(mixed().mix.distinct_conversations()).turns[0]
        waiting = Exchange(f"{number}", turn, Journey(), 5.0, workload)
        current._running[waiting.request_id] = waiting
    assert current.gauges()["overdue"] == {slos[0]: 3, slos[1]: 0, slos[2]: 1}
