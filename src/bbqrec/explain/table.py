"""An explanation for the terminal."""

import math

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bbqrec.explain.explainer import Code, Explanation, LevelStep
from bbqrec.progress import printable
from bbqrec.squeezed import Squeezed

WIDTH = 10  # of bars, in characters
EIGHTHS = " ▏▎▍▌▋▊▉"
MAX_EVENTS = 12
TITLES = ("item", "of", "runners-up")
NUMBERS = ("logit", "attention", "likeness", "neighbor", "counts", "probability", "code")


def explanation_table(item_id: str, title: str, explanation: Explanation) -> RenderableType:
    """The item, what its score is made of, what the history did, how its codes were written."""
    sections: list[RenderableType] = [_headline(item_id, title, explanation)]
    if explanation.parts is not None:
        sections.append(_parts(explanation))
    sections.append(_history(explanation))
    if explanation.levels is not None:
        sections.append(_levels(explanation))
    return Group(sections[0], *(Padding(section, (1, 0, 0, 2)) for section in sections[1:]))


def _headline(item_id: str, title: str, explanation: Explanation) -> Text:
    line = Text.assemble((printable(title), "bold"), "  ", (printable(item_id), "dim"), "\n  ")
    line.append(f"log-probability {explanation.score:.3f}")
    if explanation.rank_by == "both":
        weight = explanation.generative_weight
        line = Text.assemble(
            line.plain.replace("log-probability", "score"),
            f" = dense log-probability + {weight:g} x that of its semantic ID",
        )
        line.stylize("bold", 0, len(printable(title)))
    else:
        line.append(f", a share of {_percent(explanation.score)}")
    if explanation.logit is not None and explanation.log_normalizer is not None:
        line.append(
            f"\n  logit {explanation.logit:.3f} less {explanation.log_normalizer:.3f}, which all "
            "items have together"
        )
    return line


def _parts(explanation: Explanation) -> Table:
    parts = explanation.parts
    assert parts is not None
    of_history = {
        "near neighbors in the history": parts.neighbors,
        "taken before": parts.repeat,
    }
    rows = {
        "where it stands in the tree of semantic IDs": parts.tree,
        **{f"its {name}": value for name, value in parts.content.items()},
        "its codes: what it shares with others": parts.codes,
        "its own vector": parts.own,
        "being new": parts.new,
    }
    rows = of_history | {name: value for name, value in rows.items() if value}
    table = _table("what the logit is made of", ("", "logit", ""))
    largest = max(map(abs, rows.values()))
    for name, value in sorted(rows.items(), key=lambda row: -abs(row[1])):
        table.add_row(name, f"{value:+.3f}", _bar(value, largest))
    return table


def _history(explanation: Explanation) -> Table:
    columns = ["item", "attention", "likeness", "neighbor", "counts", ""]
    has_neighbors = any(part.neighbor for part in explanation.history)
    has_likeness = any(part.similarity_bias for part in explanation.history)
    kept = [True, True, has_likeness, has_neighbors, True, True]
    names = [name for name, is_kept in zip(columns, kept, strict=True) if is_kept]
    table = _table("what the history did (latest first)", tuple(names))
    largest = max((abs(part.left_out) for part in explanation.history), default=0.0)
    for part in explanation.history[: -MAX_EVENTS - 1 : -1]:
        cells: list[RenderableType] = [
            _line(part.title),
            "-" if part.attention is None else f"{part.attention:.0%}",
            f"{sum(part.similarity_bias.values()):+.2f}" if part.similarity_bias else "-",
            f"{sum(part.neighbor.values()):+.2f}" if part.neighbor else "-",
            f"{part.left_out:+.3f}",
            _bar(part.left_out, largest),
        ]
        table.add_row(*(cell for cell, is_kept in zip(cells, kept, strict=True) if is_kept))
    rest = explanation.history[:-MAX_EVENTS]
    if rest:
        strongest = sum(part.left_out for part in rest)
        blank = [""] * (len(names) - 3)
        table.add_row(
            f"{len(rest)} older ones, each left out alone", *blank, f"{strongest:+.3f}", ""
        )
    said = [
        "attention: share of the last layer's",
        "likeness: added to it for that" if has_likeness else "",
        "neighbor: added to the logit" if has_neighbors else "",
        "counts: the score less that without the event (▒: it took away).",
    ]
    table.caption = "; ".join(filter(None, said))
    table.caption_justify = "left"
    return table


def _levels(explanation: Explanation) -> Table:
    levels = explanation.levels
    assert levels is not None
    title = "how its semantic ID would be written"
    if explanation.rank_by == "dense":
        title += " (does not count here: the logit ranks)"
    table = _table(title, ("level", "code", "of", "probability", "runners-up"))
    for number, step in enumerate(levels, start=1):
        table.add_row(
            str(number),
            str(step.code),
            _line(_label(step)),
            _share(step),
            _runners_up(step),
        )
    total = sum(step.log_probability for step in levels)
    table.add_row("", "", "all of it", _percent(total), "")
    return table


def _runners_up(step: LevelStep) -> RenderableType:
    if not step.runners_up:
        return Text("no other item begins so", "dim")
    return Squeezed(
        *(
            (Text.assemble(f"{_share(code):>5} ", (f"{code.code:>3} ", "dim")), _label(code))
            for code in step.runners_up
        )
    )


def _label(code: Code) -> str:
    return code.label or "(nothing in common)"


def _line(text: str) -> Squeezed:
    return Squeezed((Text(), text))


def _share(code: Code) -> str:
    return _percent(code.log_probability)


def _percent(log_probability: float) -> str:
    share = math.exp(log_probability)
    return f"{share:.1%}" if share >= 0.0995 else f"{share:.2%}" if share >= 0.0001 else "< 0.01%"


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
    for name in columns:
        justify = "right" if name in NUMBERS else "left"
        # Numbers and bars keep their width; where it is narrow, titles end in an ellipsis.
        table.add_column(
            name,
            justify=justify,  # type: ignore[arg-type]
            header_style="dim",
            no_wrap=name not in TITLES,
            overflow="ellipsis",
        )
    return table


def _bar(value: float, largest: float) -> Text:
    """As long as the value's size; red and lighter where it is negative, also without colors."""
    eighths = round(8 * WIDTH * min(1.0, abs(value) / largest)) if largest else 0
    if value < 0:
        return Text("▒" * math.ceil(eighths / 8), "red")
    return Text("█" * (eighths // 8) + EIGHTHS[eighths % 8].strip(), "green")
