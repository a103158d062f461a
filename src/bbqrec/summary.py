"""What a finished stage is worth showing in the terminal, and the same as plain values."""

import shlex
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bbqrec.bundle import RunFolder
from bbqrec.data import Found
from bbqrec.evaluation import Evaluation, overall_table
from bbqrec.lineage import LINEAGE_FILE, lineage
from bbqrec.prepared import prepared_summary
from bbqrec.progress import printable
from bbqrec.recommend import Recommendation, Recommender
from bbqrec.report import ORACLE
from bbqrec.squeezed import Squeezed
from bbqrec.storage import read_json

METRICS = ("recall@10", "ndcg@10")
NUM_SHOPPERS = 3
NUM_READ = 5  # titles of a history
HIT = "bold green"
MAX_SOURCE_CHARS = 30  # of a path in a table


def summarize(run: RunFolder, stage: str) -> tuple[dict[str, Any], RenderableType]:
    """Values and a table for a finished stage; CorruptArtifactError when it is not there."""
    if stage == "prepare":
        return prepared_summary(run)
    if stage == "encode":
        return _encoded(run)
    if stage == "tokenize":
        return _tokenized(run)
    if stage == "train":
        return _trained(run)
    return _evaluated(run, with_shoppers=stage == "report")


def recommendation_table(
    recommender: Recommender, history: list[str], answer: Recommendation
) -> RenderableType:
    """What one user took, and the recommendations by title and log-probability.

    An item is one line: where it is narrow, titles lose their middle. Ids stay whole.
    """
    table = Table()
    table.add_column("", justify="right")
    table.add_column("item", overflow="fold")
    table.add_column("title")
    table.add_column("log-\nprobability", justify="right", vertical="bottom")
    for rank, item in enumerate(answer.items, start=1):
        title = Squeezed((Text(), item.title))
        table.add_row(str(rank), _plain(item.item_id), title, f"{item.log_probability:.3f}")
    if answer.is_fallback:
        return Group(Text("popular items (nothing known in the history)"), table)
    known = [item_id for item_id in history if item_id in recommender.item_of_id]
    latest = known[-NUM_READ:]
    some = "" if latest == known else f" the latest {NUM_READ} of {len(known)} items"
    taken = Squeezed(*((Text("- "), title) for title in _titles(recommender, latest)))
    return Group(Text(f"after{some}:"), taken, table)


def update_summary(
    root: Path, found: Found, version: int | None
) -> tuple[dict[str, Any], RenderableType]:
    """What an update found and what it was worth, on the same cases."""
    if version is None:
        sentence = f"found {found.sentence()}: nothing new, so {root} is as it was"
        return {"version": None, "found": found._asdict()}, Text(sentence)
    run = RunFolder(root, version)
    about = read_json(run.directory / LINEAGE_FILE)
    kept = "no epoch was better on validation than the old weights, which were kept; the new "
    lines: list[RenderableType] = [
        _changes_table(about["changes"]["test"]),
        Text(f"{kept}items and interactions count all the same" if about["is_kept"] else ""),
        Text(f"version {version} of {root} is used from now on; version {about['parent']} stays"),
        Text(f"report: {run.directory / 'report.html'}", style="bold"),
        _command("versions", shlex.join(["bbqrec", "versions", str(root)])),
    ]
    return about, Group(*(line for line in lines if str(line)))


def _command(label: str, words: str) -> Text:
    # Not wrapped: it is to be copied.
    return Text(
        f"{label + ': ':<8}{printable(words)}", style="bold", no_wrap=True, overflow="ignore"
    )


def _changes_table(changes: dict[str, Any]) -> Table:
    """Before and after, with the paired difference and its interval."""
    table = Table(title="on the new test cases", title_justify="left")
    for name in ("", "history items", "before", "after", "difference"):
        table.add_column(name, justify="left" if name in ("", "history items") else "right")
    for setting in ("filtered", "kept"):
        after, before = changes[setting]["after"], changes[setting]["before"]
        for name in METRICS:
            d = after["difference"][name]
            table.add_row(
                name,
                "left out" if setting == "filtered" else "kept",
                f"{before['metrics'][name]['mean']:.4f}",
                f"{after['metrics'][name]['mean']:.4f}",
                f"{d['mean']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]",
            )
    return table


def lineage_summary(root: Path) -> tuple[list[dict[str, Any]], RenderableType]:
    """Every version of a run, oldest first."""
    steps = lineage(root)
    table = Table(title=f"versions of {root}", title_justify="left", show_lines=True)
    for name in ("", "finished", "identity", "ndcg@10"):
        table.add_column(name, no_wrap=True)
    table.add_column("what it brought", overflow="fold")
    for step in steps:
        about = step.about
        mark = f"{step.version}{' *' if step.is_current else ''}"
        if not about:
            done = RunFolder(root, step.version).manifest("train")["finished"]
            table.add_row(mark, _date(done), step.identity, "", "trained first")
            continue
        scores = about["changes"].get("test", {}).get("filtered", {})
        means = [f"{x['metrics']['ndcg@10']['mean']:.4f}" for x in scores.values()]
        sources = [_shortened(source) for source in (about["data"], about["events"]) if source]
        brought = Found(**about["found"]).sentence()
        brought += f"; from {' and '.join(sources)}" if sources else ""
        brought += f"; after version {about['parent']} ({about['parent_identity']})"
        brought += "; the old weights were the best" if about["is_kept"] else ""
        table.add_row(
            mark, _date(about["finished"]), step.identity, " -> ".join(means), _plain(brought)
        )
    values = [
        {**s.about, "version": s.version, "identity": s.identity, "is_current": s.is_current}
        for s in steps
    ]
    note = "* is what commands and servers use; NDCG: before -> after, on the version's test cases"
    return values, Group(table, Text(note))


def _share(value: float) -> str:
    """As the table above it writes scores."""
    return f"{value:.4f}".removeprefix("0")


def _shortened(path: str) -> str:
    """A path that is too long for a table, without its beginning: its end has the file's name."""
    rest = path
    while len(rest) > MAX_SOURCE_CHARS and "/" in rest[1:]:
        rest = rest[1:].partition("/")[2]
    return path if rest == path else f"…/{rest}"


def _date(iso: str) -> str:
    return iso[:16].replace("T", " ")


def _plain(text: str) -> Text:
    """A stranger's text as it is: no markup, nothing a terminal would obey."""
    return Text(printable(text))


def _titles(recommender: Recommender, item_ids: list[str]) -> list[str]:
    names = dict(zip(recommender.dataset.item_ids, recommender.dataset.titles, strict=True))
    return [names.get(item_id, item_id) for item_id in item_ids]


def _pairs(title: str, rows: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(name.replace("_", " "), _number(value))
    return table


def _number(value: Any) -> str:
    if isinstance(value, list):
        return "  ".join(_number(entry) for entry in value)
    if isinstance(value, float):
        # What rounding leaves of nothing is nothing.
        return f"{value:,.0f}" if value >= 1000 else f"{value if abs(value) > 1e-9 else 0:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _encoded(run: RunFolder) -> tuple[dict[str, Any], RenderableType]:
    values: dict[str, Any] = {}
    table = Table(title="features", title_justify="left")
    for name in ("modality", "encoder", "dim", "items with it", "missing"):
        table.add_column(name)
    for f in run.features(run.dataset()):
        present, missing = int(f.is_present.sum()), int((~f.is_present).sum())
        values[f.modality] = {**f.identity, "dim": f.dim, "present": present, "missing": missing}
        encoder = str(f.identity["encoder"])
        table.add_row(f.modality, _plain(encoder), str(f.dim), f"{present:,}", f"{missing:,}")
    return values, table


HEALTH = {
    "collision_rate": "share of items that shared an ID",
    "moved": "share of items moved to a free one",
    "codes_used": "codes used, level by level",
    "perplexity": "as many equal codes",
    "error_share": "share of the vectors left unsaid",
    "neighbors_kept": "share of nearest neighbors kept",
}


def _tokenized(run: RunFolder) -> tuple[dict[str, Any], RenderableType]:
    health = read_json(run.folder("tokenize") / "health.json")
    rows = {HEALTH.get(k, k): v for k, v in health.items() if not isinstance(v, dict)}
    for group, entries in health.items():
        if isinstance(entries, dict):
            rows |= {f"{group} on {name}": value for name, value in entries.items()}
    return health, _pairs("health of the semantic IDs", rows)


def _trained(run: RunFolder) -> tuple[dict[str, Any], RenderableType]:
    model = read_json(run.folder("train") / "model.json")
    log = read_json(run.folder("train") / "log.json")
    manifest = run.manifest("train")
    best = log[model["best_epoch"]]  # of an update, the first is what it went on from
    rows = {
        "parameters": model["num_parameters"],
        "epochs": len(log),
        "best epoch": model["best_epoch"] + 1,
        **{f"validation {name}": best[name] for name in METRICS},
        **_transitions(model.get("transitions")),
        "seconds": manifest["seconds"],
    }
    if "peak_mb" in manifest:  # not of runs of earlier versions
        rows["peak memory, MB"] = model["peak_mb"] = manifest["peak_mb"]
    table = _pairs("the trained recommender", rows)
    return {**model, "log": log}, Group(table, *_more_epochs(run))


def _transitions(chosen: dict[str, Any] | None) -> dict[str, Any]:
    """What a finished recommender was given beyond its best epoch; not of runs without it."""
    if chosen is None:
        return {}
    measured = {f"validation {k} with transitions": chosen["metrics"][k] for k in METRICS}
    return {"transitions, times": chosen["weight"], **measured}


def _more_epochs(run: RunFolder) -> list[RenderableType]:
    """A hint where training stopped while it still got better."""
    model = read_json(run.folder("train") / "model.json")
    if model["best_epoch"] < len(read_json(run.folder("train") / "log.json")) - 1:
        return []
    setting = "update.epochs" if run.version else "training.epochs"
    return [Text(f"The last epoch was the best: more of them ({setting}) may help.")]


def _evaluated(run: RunFolder, *, with_shoppers: bool) -> tuple[dict[str, Any], RenderableType]:
    metrics = read_json(run.folder("evaluate") / "metrics.json")
    evaluation = Evaluation.parse(metrics["test"], source=f"{run.directory}/metrics.json")
    oracle = evaluation.models.get(ORACLE)
    rivals = {name: by_setting for name, by_setting in evaluation.models.items() if name != ORACLE}
    shown = evaluation.model_copy(update={"models": rivals})
    parts: list[RenderableType] = []
    for setting in ("filtered", "kept"):
        parts.append(overall_table(shown, setting, metrics=METRICS))
        if oracle is not None:
            means = oracle[setting].overall.metrics
            values = ", ".join(f"{name} {_share(means[name].mean)}" for name in METRICS)
            parts.append(Text(f"bound: {values} (an oracle that knows the shop's law)\n"))
    if with_shoppers:
        dataset = run.dataset()
        user_id = dataset.user_ids[int(dataset.test.users[0])]
        ask = shlex.join(["bbqrec", "recommend", str(run.root), "--user", user_id])
        parts += [
            _shoppers(run),
            *_more_epochs(run),
            Text(f"report: {run.directory / 'report.html'}", style="bold"),
            _command("next", ask),
        ]
    return metrics, Group(*parts)


def _shoppers(run: RunFolder) -> Table:
    """A few users' latest items and what is recommended to them, by title."""
    recommender = Recommender.load(run)
    dataset = recommender.dataset
    cases = dataset.test.take(dataset.test.spread(NUM_SHOPPERS))
    histories = [
        [dataset.item_ids[item] for item in cases.histories.row(row)] for row in range(len(cases))
    ]
    table = Table(title="three users", title_justify="left", show_lines=True)
    table.add_column("latest items")
    table.add_column("recommended (* came next)")
    for row, answer in enumerate(recommender.recommend(histories, k=5)):
        target = int(cases.targets[row])
        is_hit = [item.item_id == dataset.item_ids[target] for item in answer.items]
        latest = _titles(recommender, histories[row][-NUM_READ:])
        table.add_row(
            Squeezed(
                (Text("", "bold"), dataset.user_ids[int(cases.users[row])]),
                *((Text("- "), title) for title in latest),
                (Text("next: ", HIT if any(is_hit) else ""), dataset.titles[target]),
            ),
            Squeezed(
                *(
                    (Text(f"{rank}{'*' if hit else ' '} ", HIT if hit else ""), item.title)
                    for rank, (item, hit) in enumerate(
                        zip(answer.items, is_hit, strict=True), start=1
                    )
                )
            ),
        )
    return table
