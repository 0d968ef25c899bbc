"""A mix of workloads: who gets which arrival, what is refused, which objectives apply."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import json
import math
import random
import time
from pathlib import Path
from typing import Any, cast

import pytest
from command_line.arguments import add_arguments, command_line
from command_line.options import OptionError, RunOptions
from figures.record import RequestRecord
from figures.slo import good, parse_slo, parse_slos
from sending.load_round import LoadRound
from sending.messages import RoundPlan
from sending.request import LoadRequest
from sending.source import LoadSource
from traffic.arrivals import Schedule, unit_arrivals
from traffic.faults import Journey
from traffic.mix import chosen, parse_mix
from traffic.workloads import DEFAULT_SLOS, MLPERF_SLOS, Conversation

from tests.support.load_runs import recording
from tests.support.paths import DEMO_CHECKPOINT
from tests.support.run_folders import HEADER

TOKENIZER = str(DEMO_CHECKPOINT / "tokenizer.json")
COUNT = 20_000
MIX = "64/8=3,chat=1,32/6=0.5"


def mixed(workload: str = MIX, **changed: Any) -> LoadSource:
    return LoadSource(RunOptions(workload=workload, tokenizer=TOKENIZER, **changed))


def texts(conversation: Conversation) -> list[str]:
    return [turn.prompt for turn in conversation.turns]


@pytest.mark.parametrize(("seed", "every"), [(0, 1), (1, 1), (2, 1), (0, 2), (1, 3)])
def test_each_workers_shares_match_the_weights(seed: int, every: int) -> None:
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


def test_consecutive_choices_are_independent() -> None:
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
    source = mixed("64/8=3,replay=2,chat=1", replay=replay, seed=4)
    backwards = [source.mix.conversation(number) for number in reversed(range(90))]
    assert backwards[::-1] == conversations, "a search's next round begins anew"


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


def test_a_single_workload_makes_the_same_requests_as_without_a_weight() -> None:
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
        ({"workload": "chat=2,chat=1"}, "must have 'chat' once, not twice"),
        ({"workload": "chat=2,128/128=x"}, "the weight of 128/128 must be as 128/128=2, not 'x'"),
        ({"workload": "chat=,128/128"}, "the weight of chat must be as chat=2, not ''"),
        ({"workload": "chat=0,128/128"}, "the weight of chat must be a number above 0, not 0"),
        ({"workload": "chat=-1"}, "a number above 0, not -1"),
        ({"workload": "chat=inf,128/128"}, "a number above 0, not inf"),
        ({"workload": "chat=nan,128/128"}, "a number above 0, not nan"),
        ({"workload": "chat=1,,128/128"}, "must be as chat=2,128/128=1, without an empty part"),
        ({"workload": ""}, "without an empty part"),
        ({"workload": "chat=1,=2"}, "without an empty part"),
        ({"workload": "chat,quick=2"}, "shared-prefix, not 'quick'"),
        ({"workload": "chat,0/5=2"}, "must have lengths of at least 1"),
        ({"workload": "chat,replay"}, "needs a recording: --replay FILE"),
        ({"workload": "replay"}, "needs a recording: --replay FILE"),
        ({"workload": "chat,128/128", "replay": "x"}, "is a mix without replay; must be as"),
        ({"workload": "chat,replay", "replay": "x", "arrivals": "trace"}, "--arrivals is trace"),
        (
            {"workload": "chat,128/128", "slos": "64/8:ttft<1s"},
            "must be of one of the workloads chat, 128/128, not '64/8'",
        ),
    ],
)
def test_a_wrong_mix_is_named(changed: dict[str, str], named: str) -> None:
    with pytest.raises(OptionError) as raised:
        mixed(**changed)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "slos", "arrivals"),
    [
        (["--workload", "mlperf-interactive"], MLPERF_SLOS["mlperf-interactive"], "poisson"),
        (["--workload", "mlperf-interactive=2"], MLPERF_SLOS["mlperf-interactive"], "poisson"),
        (["--workload", "mlperf-interactive,chat"], DEFAULT_SLOS, "poisson"),
        (["--workload", "chat,mlperf-interactive", "--slo", "tpot<1s"], "tpot<1s", "poisson"),
        (["--replay", "x"], DEFAULT_SLOS, "trace"),
        (["--replay", "x", "--rate", "4"], DEFAULT_SLOS, "poisson"),  # the default's value
        (["--replay", "x", "--rate", "3"], DEFAULT_SLOS, "poisson"),
        (["--replay", "x", "--workload", "chat,replay"], DEFAULT_SLOS, "poisson"),
    ],
)
def test_defaults_of_mixes_and_recordings(
    arguments: list[str], slos: str, arrivals: str, tmp_path: Path
) -> None:
    """MLPerf's limits apply to its workload alone, recorded times to a recording alone."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parser.set_defaults(run_time=60, host=None, stop_timeout=None)  # Locust's own
    file = recording(tmp_path, 3)
    parsed = parser.parse_args([file if each == "x" else each for each in arguments])
    options = command_line(parsed).options
    assert (options.slos, options.arrivals) == (slos, arrivals)


@pytest.mark.parametrize("at", [1e9, 1e308])
def test_a_recording_in_other_units_is_refused(at: float, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parser.set_defaults(run_time=None, host=None, stop_timeout=None)
    file = tmp_path / "traffic.jsonl"
    lines = ({"at": each, "prompt": "Hi"} for each in (0, at))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(
        OptionError, match=r"--replay .* must last at most .* s, not 1e\+\d+ s, at --speed 1"
    ):
        command_line(parser.parse_args(["--replay", str(file)]))
    parsed = parser.parse_args(["--replay", str(file), "--speed", "1e303"])
    assert command_line(parsed).options.rate == 4


def test_an_objective_may_name_one_workload() -> None:
    (bound,) = parse_slos("chat:ttft:p99 < 50ms", ["chat"])
    assert (bound.workload, bound.metric, bound.percent) == ("chat", "ttft", 99.0)
    assert parse_slo("128/128:itl<1s").workload == "128/128"
    assert parse_slo("ttft:p99<1s").workload == parse_slo("ttft<1s").workload == ""
    with pytest.raises(ValueError, match=r"must be on one of .*, not 'chat'"):
        parse_slo("chat:p99<1s")
    late = RequestRecord(request_id="1", workload="chat", scheduled_at=0.0, first_token_at=0.06)
    assert not good(late, [bound])
    assert good(dataclasses.replace(late, workload="128/128"), [bound])


def late_plan(options: RunOptions, slos: list[str]) -> RoundPlan:
    """A round that should have begun 10 s ago."""
    return RoundPlan(
        number=1,
        options=options,
        header={**HEADER, "slos": slos},
        started_unix=time.time() - 10,
        index=0,
        count=1,
        name="0",
        rate=1.0,
    )


@pytest.mark.parametrize("closed_loop", [True, False])
def test_a_closed_loop_with_a_late_plan_still_runs_its_full_time(closed_loop: bool) -> None:
    """An open loop has arrivals to catch up with; a closed one only begins later."""
    options = RunOptions(warmup_s=0.0, closed_loop=closed_loop)
    current = LoadRound(late_plan(options, []), mixed(), cast(Any, None))
    assert (current.clock.now() < 5) == closed_loop
    told = current.collect().results.incidents
    assert [each.partition(" 10.")[0] for each in told] == (
        ["worker 0 began its load"] if closed_loop else []
    )


def test_a_waiting_request_is_judged_by_its_own_workloads_limit() -> None:
    """A request that has waited for a second is not late for a limit of a minute."""
    slos = ["ttft:p50<1s", "ttft:p99<60s", "chat:ttft<2s", "e2e<1s"]
    plan = late_plan(RunOptions(warmup_s=0.0), slos)
    current = LoadRound(plan, mixed(), cast(Any, None))
    for number, workload in enumerate(["chat", "64/8", "64/8"]):
        turn = next(mixed().mix.distinct_conversations()).turns[0]
        waiting = LoadRequest(f"{number}", turn, Journey(), 5.0, workload)
        current._running[waiting.request_id] = waiting
    assert current.gauges()["overdue"] == {slos[0]: 3, slos[1]: 0, slos[2]: 1}
