"""Titles keep what tells them apart where a terminal is narrow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from bbqrec.squeezed import Squeezed, squeeze


def test_titles_that_begin_alike_are_told_apart() -> None:
    titles = [f"Table lamp, low and polka-dot, {color}" for color in ("plum", "sage", "orchid")]
    console = Console(width=20)

    with console.capture() as capture:
        console.print(Squeezed(*((Text("1 "), title) for title in titles)))

    assert capture.get().splitlines() == [
        "1 Table lam…ot, plum",
        "1 Table lam…ot, sage",
        "1 Table lam…, orchid",
    ]


@given(text=st.text(max_size=40), width=st.integers(1, 50))
def test_a_squeezed_text_fits_and_a_short_one_is_whole(text: str, width: int) -> None:
    shown = squeeze(text, width)

    assert cell_len(shown) <= max(width, 1)
    assert shown == text or cell_len(text) > width


@pytest.mark.parametrize("title", ["\x1b[31mred", "[bold]x"])
def test_what_strangers_wrote_is_not_obeyed(title: str) -> None:
    console = Console(width=40, force_terminal=True, color_system="standard")

    with console.capture() as capture:
        console.print(Squeezed((Text(), title)))

    assert capture.get().strip() == title.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
