"""What an update is given: what is new for a run, and the settings that it is taken in with."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bbqrec.bundle import RunFolder, not_a_run
from bbqrec.config import apply_overrides
from bbqrec.data import Collected, Found, PrepareConfig
from bbqrec.data.grow import grow  # not among the room's names: it needs polars
from bbqrec.decoding import RankingConfig
from bbqrec.errors import ConfigError, StorageError
from bbqrec.lineage import LINEAGE_FILE
from bbqrec.recommender import RecommenderConfig
from bbqrec.run_config import RunConfig
from bbqrec.storage import read_json

READING = {
    *("format", "columns", "header", "delimiter", "encoding", "time_format"),
    *("event_weights", "min_rating", "max_bad_share"),
}


class News(NamedTuple):
    """What an update is given.

    Args:
        source: interactions and items in any format, new ones or all of them.
        collected: what a server collected; `events_place` says where it was.
        withdrawn: all items that may not be recommended; None keeps the run's list.
    """

    source: Path | None = None
    collected: Collected = Collected()
    events_place: str | None = None
    withdrawn: Collection[str] | None = None


def read_news(
    parent: RunFolder, news: News, config: RunConfig, reading: PrepareConfig, directory: Path
) -> Found:
    """Write the parent's data with the new ones into `directory`, and say what was new."""
    return grow(
        parent.folder("prepare"),
        news.source,
        news.collected,
        directory,
        config.prepare,
        withdrawn=news.withdrawn,
        reading=reading,
    )


def run_config(root: Path, overrides: Sequence[str]) -> tuple[RunConfig, PrepareConfig]:
    """The run's settings under `overrides` for an update, and how its new data are written.

    Raises ConfigError for a setting that an update cannot change.
    """
    path = updatable(root).config_path
    kept = read_json(path)
    config = RunConfig.parse(apply_overrides(kept, overrides), source=f"{path} with --set")
    before = RunConfig.parse(kept, source=str(path))
    sections = {n for n in type(config).model_fields if getattr(config, n) != getattr(before, n)}
    other = sections - {"update", "evaluation", "prepare"}
    changed = {
        name for name, value in config.prepare if value != getattr(before.prepare, name)
    } - READING
    if other or changed:
        name = min(other) if other else f"prepare.{min(changed)}"
        raise ConfigError(
            f"an update cannot change {name}, which the run was trained with; it can change "
            f"update, evaluation and how --data is written (prepare.{', '.join(sorted(READING))})"
        )
    return config, config.prepare


def updatable(root: Path) -> RunFolder:
    """The version in use of the run at `root`; StorageError or ConfigError where it is none."""
    if not root.is_dir():
        raise StorageError(not_a_run(root))
    run = RunFolder(root)
    if run.version == 0 and (root / LINEAGE_FILE).is_file():
        raise ConfigError(f"{root} is a version of a run; update the run two folders above it")
    return run


def settings_of(parent: RunFolder, config: RunConfig | None) -> RunConfig:
    """The run's own, with the recommender's as it was trained and the update's as asked now."""
    kept = RunConfig.parse(read_json(parent.config_path), source=str(parent.config_path))
    path = parent.folder("train") / "model.json"
    trained = read_json(path)
    changes: dict[str, Any] = {
        "recommender": RecommenderConfig.parse(trained["recommender"], source=str(path)),
        "ranking": RankingConfig.parse(trained["ranking"], source=str(path)),
        "prepare": PrepareConfig.parse(
            parent.dataset().info["options"], source=str(parent.folder("prepare"))
        ),
    }
    if config is not None:
        changes |= {"update": config.update, "evaluation": config.evaluation}
    return kept.model_copy(update=changes)
