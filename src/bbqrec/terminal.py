"""One command's time on the terminal: what it logs, and how it ends when something is wrong."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from bbqrec.allocator import keep_heap
from bbqrec.errors import BBQRecError
from bbqrec.progress import printable, shown_on

screen = Console(stderr=True)


@contextmanager
def session(quiet: bool) -> Iterator[None]:
    """Logging and progress on stderr; a user's mistake is one sentence and an exit code."""
    keep_heap()
    handler = RichHandler(
        console=screen, show_path=False, show_level=False, markup=False, log_time_format="%X"
    )
    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO,
        format="%(message)s",
        handlers=[handler],
        force=True,
    )
    try:
        if quiet:
            yield
        else:
            with shown_on(screen):
                yield
    except BBQRecError as error:
        raise _told(str(error), error.exit_code) from None
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever read stdout has gone
            raise
        where = f"{error.filename}: " if error.filename else ""
        reason = f"{where}{error.strerror or error}"
        raise _told(f"{reason}; check that path, its permissions and the disk", 2) from None
    except MemoryError:
        raise _told(
            "the memory is not enough; lower batch sizes or use a larger machine", 2
        ) from None
    except KeyboardInterrupt:
        say("stopped; the same command continues where it left off")
        raise typer.Exit(130) from None
    except Exception:
        say("this is a mistake in bbqrec, not yours: please report it with what follows")
        raise


def say(sentence: str, *, label: str = "") -> None:
    """One line on stderr, however long, with nothing in it taken for markup or a control code."""
    screen.print(f"{label}{escape(printable(sentence))}", soft_wrap=True)


def _told(sentence: str, exit_code: int) -> typer.Exit:
    say(sentence, label="[bold red]error:[/] ")
    return typer.Exit(exit_code)
