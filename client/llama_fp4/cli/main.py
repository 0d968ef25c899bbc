"""The command `llama-fp4`, which imports the module of one subcommand only.

Exit codes: 0 done; 1 the server failed, is busy, not there or not ready; 2 the command line or the
request is wrong; 3 timeout; 130 Ctrl-C; 141 nobody reads the output any more.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

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

WAKE = signal.SIGURG  # ignored by default, so a stray one does no harm
AGAIN_S = 0.05
# name -> (module, what it does); the module has `add_NAME_options(parser)`, `NAME_options(given)`,
# which makes a dataclass of what was parsed, and `run_NAME(options)`, which returns the exit code
COMMANDS = {
    "generate": ("generate", "answer one prompt, from the command line or standard input"),
    "chat": ("chat", "hold a conversation; Ctrl-C cancels an answer, /help lists commands"),
    "health": ("inspect_server", "whether the server is live and the model ready"),
    "models": ("inspect_server", "which models the server has, and their inputs"),
    "metrics": ("inspect_server", "what the engine does now"),
    "bench": ("bench", "a quick look at latency and tokens/s, no load test"),
    "gateway": ("gateway", "serve OpenAI's API before the server"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # gRPC would log to stderr, which is the user's.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    if threading.current_thread() is threading.main_thread():
        _Waker()
    try:
        return _run(given)
    except LlamaError as error:
        complain(error, "--json" in given)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, and would complain.
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
    getattr(module, f"add_{name}_options")(parser)
    parsed, extra = parser.parse_known_args(rest)
    if extra:
        parser.error(_unknown(extra))
    options = getattr(module, f"{name}_options")(parsed)
    code: int = getattr(module, f"run_{name}")(options)
    return code


def _unknown(extra: Sequence[str]) -> str:
    # Without values: one of them may be the secret of a mistyped --header.
    for argument in extra:
        if argument.startswith("-"):
            option = argument.partition("=")[0]
            if option.lstrip("-").replace("-", "_") in SEVERAL:
                return f"{option} is not an option of this command, {ONE_ANSWER}"
            return f"{option:.40} is not an option"
    return f"there are {len(extra)} arguments too many (a prompt with blanks needs quotes)"


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


class _Waker:
    """Brings Ctrl-C to the main thread soon, whichever thread gets the signal.

    Python only takes note of a signal, and acts on it when the main thread next runs. A signal that
    goes to one of gRPC's threads, or comes just before readline waits for a key, ends no such wait.
    Made once, in the main thread; the thread that this starts ends with the process.
    """

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        self._main = threading.get_ident()
        self._awake = True
        signal.signal(WAKE, self._came_by)  # a signal without a handler interrupts nothing
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="interrupts", daemon=True).start()

    def _came_by(self, number: int, frame: FrameType | None) -> None:
        self._awake = True

    def _watch(self) -> None:
        # This thread gets no signals, as it would only have to wake the other.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, WAKE})
        while numbers := os.read(self._reader, 64):
            if signal.SIGINT not in numbers:
                continue
            self._awake = False
            while not self._awake:
                time.sleep(AGAIN_S)  # first, as the main thread is usually awake
                signal.pthread_kill(self._main, WAKE)


if __name__ == "__main__":
    sys.exit(main())
