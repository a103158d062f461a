"""One command's time on the terminal: what it logs, and how it ends when something is wrong."""

import errno
import logging
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from typer.core import TyperGroup

from bbqrec.allocator import keep_heap
from bbqrec.errors import BBQRecError
from bbqrec.progress import printable, shown_on

screen = Console(stderr=True)
_GUESS = re.compile(
    r"[.,;]? \(?(?:did you mean:?|possible options:) ([^?)]+)\??\)?$", re.IGNORECASE
)


class Commands(TyperGroup):
    """Mistakes in how a command is written end like all others: in one sentence, with code 2."""

    def main(self, *args: Any, standalone_mode: bool = True, **options: Any) -> Any:
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **options)
        try:
            code = super().main(*args, standalone_mode=False, **options)
        except typer.Abort:
            code = 1
        except Exception as error:
            # What typer raises here belongs to its own copy of click, or to click: by its shape.
            if not hasattr(error, "format_message"):
                raise
            code = _explain_usage(error)
        sys.exit(code)


def _explain_usage(error: Any) -> int:
    context = getattr(error, "ctx", None)
    reason = error.format_message().replace("Value error, ", "").rstrip(".")
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help itself
        sys.stdout.write(reason + "\n")
        return 2
    # `--help` is the last resort, so it is named last.
    command = context.command_path if context is not None else "bbqrec"
    reason = _GUESS.sub(r" (did you mean \1?)", " ".join(reason.split()))
    say(
        f"{reason[:1].lower()}{reason[1:]}; `{command} --help` shows what there is",
        label="[bold red]error:[/] ",
    )
    return int(error.exit_code)


@contextmanager
def session(quiet: bool) -> Iterator[None]:
    """Logging and progress on stderr; a user's mistake is one sentence and an exit code."""
    keep_heap()
    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO,
        format="%(message)s",
        handlers=[_handler()],
        force=True,
    )
    interrupts: list[int] = []
    try:
        with _interrupts_noted(interrupts), nullcontext() if quiet else shown_on(screen):
            yield
    except (Exception, KeyboardInterrupt) as error:
        # A library that is stopped midway may raise anything in place of the interrupt.
        code = _explain(KeyboardInterrupt() if interrupts else error)
        if code is None:
            raise
        raise typer.Exit(code) from None


def _handler() -> logging.Handler:
    """Wrapped for eyes on a terminal; in a file one line per record, for whoever searches it."""
    if screen.is_terminal:
        return RichHandler(
            console=screen,
            show_path=False,
            show_level=False,
            markup=False,
            log_time_format="%X",
            omit_repeated_times=False,
        )
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    return handler


class _OneLine(logging.Formatter):
    """A record that no line break in it can split in two; a traceback follows in its own lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))


@contextmanager
def _interrupts_noted(interrupts: list[int]) -> Iterator[None]:
    previous = signal.getsignal(signal.SIGINT)
    is_ours = previous is signal.default_int_handler
    if not is_ours or threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _explain(error: BaseException) -> int | None:
    """Say what went wrong; the exit code, or None for an error that should show its traceback."""
    label = "[bold red]error:[/] "
    if isinstance(error, KeyboardInterrupt):
        say("stopped; the same command continues where it left off")
        return 130
    if isinstance(error, BBQRecError):
        say(str(error), label=label)
        return error.exit_code
    if isinstance(error, OSError) and error.errno != errno.EPIPE:  # whoever read stdout has gone
        where = f"{error.filename}: " if error.filename else ""
        reason = f"{where}{error.strerror or error}"
        say(f"{reason}; check that path, its permissions and the disk", label=label)
        return 2
    if isinstance(error, MemoryError):
        say("there is too little memory; lower the batch sizes or the widths", label=label)
        return 2
    if not isinstance(error, OSError):
        say("this is a mistake in bbqrec, not yours: please report it with what follows")
    return None


def say(sentence: str, *, label: str = "") -> None:
    """One line on stderr, however long, with nothing in it taken for markup or a control code."""
    screen.print(f"{label}{escape(printable(sentence))}", soft_wrap=True)
