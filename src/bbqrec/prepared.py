"""What a preparation read, left out and kept: counts that add up, as a sentence and as tables."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bbqrec.bundle import RunFolder
from bbqrec.data import Dataset
from bbqrec.data.prepare import REJECTED_FILE
from bbqrec.progress import printable

# In the order in which they are taken away; what is left is `kept`.
LEFT_OUT = {
    "no_row": "not a row",
    "unusable": "without user, item, time or a number that is needed",
    "filtered_out": "of unwanted events or ratings",
    "exact_duplicates": "exact duplicates",
    "repeats_dropped": "repeats of a user and an item",
    "older_dropped": "older than the user's latest",
    "below_k_core": "of users or items with too few",
}


def ledger(counts: dict[str, int]) -> list[tuple[str, int]]:
    """Lines read, what was left out of them in turn, and what was kept: the sum of the others.

    Args:
        counts: of the interactions, from `Dataset.info`.
    """
    read = counts["read"] + counts.get("no_row", 0)
    taken = [(label, -counts[name]) for name, label in LEFT_OUT.items() if counts.get(name)]
    return [("read", read), *taken, ("kept", counts["kept"])]


def set_aside(run: RunFolder, dataset: Dataset) -> str | None:
    """Where lines that could not be used are, with their reasons; None where all could be."""
    number = dataset.info["counts"]["lines_set_aside"]
    if not number:
        return None
    lines = "1 line that cannot be used is" if number == 1 else f"{number:,} unusable lines are"
    return f"{lines} in {run.folder('prepare') / REJECTED_FILE}, each with the reason"


def prepared_sentence(dataset: Dataset) -> str:
    """What was read and what of it was kept, in one sentence."""
    (_, read), *taken, (_, kept) = ledger(dataset.info["counts"]["interactions"])
    left_out = ", ".join(f"{-number:,} {label}" for label, number in taken)
    return (
        f"{read:,} interactions read{f', {left_out}' if left_out else ''}; {kept:,} kept, of "
        f"{dataset.num_users:,} users and {dataset.num_items:,} items"
    )


def prepared_summary(run: RunFolder) -> tuple[dict[str, Any], RenderableType]:
    """The prepared data's own account of themselves, and tables of it."""
    dataset = run.dataset()
    info = dataset.info
    parts: list[RenderableType] = [_columns(info)]
    if "interactions" in info["counts"]:  # an update counts what it found instead
        parts.append(_ledger_table(info))
    parts.append(_statistics(info))
    return info, Group(*parts)


def _columns(info: dict[str, Any]) -> Table:
    by_item = "files named by item" if info["statistics"]["items_with_image"] else None
    table = Table(title="columns", title_justify="left", show_header=False)
    for ours, theirs in {**info["columns"], "image": info["columns"].get("image", by_item)}.items():
        shown = ", ".join(theirs) if isinstance(theirs, list) else theirs
        table.add_row(ours.replace("_", " "), Text(printable(shown or "none")))
    return table


def _ledger_table(info: dict[str, Any]) -> Table:
    table = _table("interactions")
    steps = ledger(info["counts"]["interactions"])
    for label, number in steps[:-1]:
        table.add_row(label, f"{number:,}")
    table.add_section()
    table.add_row("kept", f"{steps[-1][1]:,}")
    statistics = info["statistics"]
    parts = {
        "to train on": statistics["train_interactions"],
        "to validate on": statistics["validation_cases"],
        "to test on": statistics["test_cases"],
    }
    unused = steps[-1][1] - sum(parts.values())
    for label, number in {**parts, "in no part of the split": unused}.items():
        if number or label in parts:
            table.add_row(f"  {label}", f"{number:,}")
    return table


def _statistics(info: dict[str, Any]) -> Table:
    s = info["statistics"]
    table = _table("what is there now")
    table.add_row("users", f"{s['users']:,}")
    table.add_row("items", f"{s['items']:,}")
    table.add_row("  with a picture", f"{s['items_with_image']:,}")
    for name in ("user", "item"):
        of = {key: s[f"interactions_per_{name}_{key}"] for key in ("min", "median", "max")}
        table.add_row(
            f"interactions of one {name}",
            f"{of['min']:,} to {of['max']:,}, half have {of['median']:,.0f} or more",
        )
    table.add_row("density: pairs that are there", f"{s['density']:.2%}")
    table.add_row("interactions that repeat a pair", f"{s['repeated_pairs']:,}")
    if "share_of_tied_times" in s:
        table.add_row("interactions at equal times", f"{s['share_of_tied_times']:.1%}")
    others = {
        name: number
        for group, entries in info["counts"].items()
        if group in ("items", "images", "split")
        for name, number in entries.items()
        if number and name not in s
    }
    for name, number in others.items():
        table.add_row(name.replace("_", " "), f"{number:,}")
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    return table
