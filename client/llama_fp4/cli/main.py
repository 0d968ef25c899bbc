"""The command `llama-fp4`: one module for each subcommand, imported when it is the one asked for.

Exit codes: 0 done; 1 the server failed, refused for now, is not there or not ready; 2 the command
line or the request is wrong; 3 a limit of time; 130 Ctrl-C; 141 nobody reads the output any more.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Sequence

from llama_fp4.cli.interrupt import Waker
from llama_fp4.cli.output import (
    BROKEN_PIPE,
    INTERRUPTED,
    OK,
    USAGE,
    Parser,
    complain,
    exit_code,
    say,
)
from llama_fp4.errors import LlamaError, must_be
from llama_fp4.sampling import ONE_ANSWER, SEVERAL

# name -> (module, what it does); each module has `add_options(parser)` and `run(options) -> code`
COMMANDS = {
    "generate": ("generate", "answer one prompt, from the command line or standard input"),
    "chat": ("chat", "talk; Ctrl-C cancels an answer, /help says the rest"),
    "health": ("inspect_server", "whether the server lives and the model is ready"),
    "models": ("models", "what the server has, and which inputs it takes"),
    "metrics": ("metrics", "what the engine does now"),
    "bench": ("bench", "a quick look at latency and tokens/s, no load test"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # The libraries below log to stderr, which is the user's.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    if threading.current_thread() is threading.main_thread():
        Waker()
    try:
        return _run(given)
    except LlamaError as error:
        complain(error, "--json" in given)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, and would tell of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _run(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        say(overview())
        return OK if given else USAGE
    if given[0] == "--version":
        from importlib.metadata import version

        say(f"llama-fp4 {version('llama-fp4')}")
        return OK
    name, *rest = given
    if name not in COMMANDS:
        raise must_be("the command", f"one of {', '.join(COMMANDS)}", name)
    module_name, summary = COMMANDS[name]
    module = importlib.import_module(f"llama_fp4.cli.{module_name}")
    usage = f"llama-fp4 {name} [options]"
    parser = Parser(prog=f"llama-fp4 {name}", usage=usage, description=_sentence(summary))
    module.add_options(parser)
    options, extra = parser.parse_known_args(rest)
    if extra:
        parser.error(_unknown(extra))
    code: int = module.run(options)
    return code


def _unknown(extra: Sequence[str]) -> str:
    # Without values: one of them may be what a mistyped --header was to keep secret.
    for argument in extra:
        if argument.startswith("-"):
            option = argument.partition("=")[0]
            if option.lstrip("-").replace("-", "_") in SEVERAL:
                return f"{option} is no option of this command, {ONE_ANSWER}"
            return f"{option:.40} is no option"
    return f"{len(extra)} arguments too many (a prompt with blanks needs quotes)"


def overview() -> str:
    """The text of `llama-fp4 --help`."""
    lines = [f"  {name:<10}{summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: llama-fp4 COMMAND [options]",
            "",
            "Ask a server of the Llama FP4 ensemble, or of upstream's Triton models.",
            "",
            *lines,
            "",
            "llama-fp4 COMMAND --help lists the options. LLAMA_FP4_URL is --url's default.",
            "Exit codes: 0 done, 1 server error, 2 usage or a wrong request, 3 timeout,",
            "130 Ctrl-C.",
        ]
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


if __name__ == "__main__":
    sys.exit(main())
