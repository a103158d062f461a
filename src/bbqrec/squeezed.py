"""Strangers' words on one line each, however narrow the terminal is."""

from collections.abc import Iterator

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.text import Text

from bbqrec.progress import printable


class Squeezed:
    """Lines that lose their middle where it is narrow: titles of a shop often begin alike.

    Args:
        lines: what is kept whole, and a stranger's words after it, in the same style.
    """

    def __init__(self, *lines: tuple[Text, str]) -> None:
        self._lines = [(head, printable(words)) for head, words in lines]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        heads = max(head.cell_len for head, _ in self._lines)
        whole = max(head.cell_len + cell_len(words) for head, words in self._lines)
        return Measurement(min(heads + 3, whole), whole).clamp(max_width=options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for head, words in self._lines:
            left = options.max_width - head.cell_len
            shown = squeeze(words, left), head.style
            yield Text.assemble(head, shown, no_wrap=True, overflow="ellipsis")


def squeeze(text: str, width: int) -> str:
    """Beginning and end of a text on `width` columns of a terminal."""
    if cell_len(text) <= width:
        return text
    end = max(0, (width - 1) // 2)
    tail = text[len(text) - end :]
    while cell_len(tail) > end:
        tail = tail[1:]
    return set_cell_size(text, max(0, width - 1 - cell_len(tail))).rstrip() + "…" + tail.lstrip()
