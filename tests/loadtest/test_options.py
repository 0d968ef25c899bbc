"""The load test's options: listed without Locust or a server, and refused in one sentence."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line.arguments import add_arguments
from command_line.options import RunOptions
from command_line.wrong_options import refuse_plainly

from tests.support.paths import ROOT

LOCUSTFILE = ROOT / "loadtest" / "locustfile.py"
# What is typed, and the sentence that it gets.
WRONG = {
    ("--rte", "4"): "there is no option --rte; did you mean --rate?",
    ("--rte=4",): "there is no option --rte; did you mean --rate?",
    ("--xyz",): "there is no option --xyz; python loadtest/locustfile.py --help lists them",
    ("--rate", "fast"): "--rate must be a number, not 'fast'",
    ("--seed", "1.5"): "--seed must be a whole number, not '1.5'",
    ("--rate",): "--rate needs a value; python loadtest/locustfile.py --help says which",
    ("rate", "4"): "'rate' is not an option; their names begin with --",
}


class Refused(Exception):
    """With the sentence."""


def refuse(sentence: str) -> None:
    raise Refused(sentence)


def page(*command: str) -> str:
    narrow = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(command, cwd=ROOT, env=narrow, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_option_is_listed_with_its_default() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    # -S: without any installed package.
    told = " ".join(page(sys.executable, "-S", str(LOCUSTFILE), "--help").split())
    ours = [action for action in parser._actions if action.dest != "help"]
    assert len(ours) > len(dataclasses.fields(RunOptions)) - 7
    for action in ours:
        (name,) = action.option_strings
        metavar = "" if action.nargs == 0 else f" {action.metavar}"
        assert f"{name}{metavar} " in told
        if action.default not in ("", False, True, None) and action.dest != "tokenizer":
            after = told.partition(f"{name}{metavar} ")[2]
            assert re.search(r"\(default: ([^)]*)", after), name
    assert "--rate PER_S arrivals/s of all workers together (default: 4.0)" in told
    assert "examples:" in told
    for name in ("--host", "--run-time", "--users", "--stop-timeout", "--headless", "--processes"):
        assert name in told, "Locust's, without which ours say little"


def test_make_prints_the_same_page() -> None:
    told = page("make", "-s", "loadtest", "LOADTEST_FLAGS=--help", f"VENV={sys.prefix}")
    assert told.endswith(page(sys.executable, str(LOCUSTFILE), "--help"))


def test_every_example_uses_existing_options() -> None:
    told = page(sys.executable, str(LOCUSTFILE), "-h")
    options, _, examples = told.partition("\nexamples:\n")
    named = set(re.findall(r"(?<![\w-])-{1,2}[a-z][a-z-]*", examples)) - {"-f", "--help", "--rates"}
    assert len(named) > 5
    assert named <= set(re.findall(r"(?<![\w-])-{1,2}[a-zA-Z][a-z-]*", options))


@pytest.mark.parametrize("arguments", WRONG)
def test_a_wrong_option_is_one_sentence(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parser.add_argument("user_classes", nargs="*")  # Locust's
    refuse_plainly(parser, refuse)
    monkeypatch.setattr("sys.argv", ["locust", *arguments])
    with pytest.raises(Refused) as refused:
        parser.parse_args(arguments)
    assert str(refused.value) == WRONG[arguments]


def test_a_wrong_option_sets_exit_code_2() -> None:
    command = [sys.executable, str(LOCUSTFILE), "--headless", "--rte", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no option --rte; did you mean --rate?\n"


def test_a_python_without_locust_names_one_with_it() -> None:
    command = [sys.executable, "-S", str(LOCUSTFILE), "--rate", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "has no package 'locust'" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "script", sorted(LOCUSTFILE.parent.glob("*.py")), ids=lambda path: path.stem
)
def test_help_needs_no_packages(script: Path) -> None:
    command = [sys.executable, "-S", str(script), "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


def test_a_comparison_names_a_missing_package() -> None:
    command = [sys.executable, "-S", str(LOCUSTFILE.parent / "compare.py"), "A", "B"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={})
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no package 'numpy': `make loadtest` installs" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_sweeps_help_needs_no_packages() -> None:
    told = page(sys.executable, "-S", str(LOCUSTFILE.parent / "sweep.py"), "--help")
    assert "--concurrencies LIST" in told
