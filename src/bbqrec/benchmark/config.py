"""The settings of a benchmark: what differs between two cells stands in one TOML file."""

import copy
import re
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from bbqrec.config import Config
from bbqrec.errors import ConfigError
from bbqrec.pipeline import RunConfig

Settings = dict[str, Any]


class DataSetConfig(Config):
    """One data set of the benchmark.

    Args:
        folder: below the folder given as --data; None is the drawn shop, drawn by `shop_seed`.
        settings: sections of a run's settings that hold for every row, such as `prepare`.
    """

    folder: str | None = None
    shop_seed: int = Field(0, ge=0)
    settings: Settings = Field({})


class RowConfig(Config):
    """One row of the tables: a trained model, or a baseline that needs no settings.

    Args:
        about: what the row is, in a sentence for the tables.
        settings: sections of a run's settings in which the row differs from the others.
        on: data set -> further settings there.
        seeds, data: where the row is made; None is all of the benchmark's.
    """

    kind: Literal["model", "popularity", "item_knn"] = "model"
    about: str = ""
    settings: Settings = Field({})
    on: dict[str, Settings] = Field({})
    seeds: tuple[int, ...] | None = Field(None, min_length=1)
    data: tuple[str, ...] | None = Field(None, min_length=1)


class CellKey(NamedTuple):
    """Which cell of the matrix."""

    data: str
    row: str
    seed: int

    def __str__(self) -> str:
        return f"{self.data}, {self.row}, seed {self.seed}"

    @property
    def name(self) -> str:
        """What the cell's files are called."""
        return f"{slug(self.row)}-seed{self.seed}"


class BenchmarkConfig(Config):
    """Rows x data sets x seeds.

    Args:
        reference: the row that all others are compared with, user by user.
        settings: sections of a run's settings that hold for every cell.
    """

    about: str = ""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    reference: str
    settings: Settings = Field({})
    data: dict[str, DataSetConfig] = Field(min_length=1)
    rows: dict[str, RowConfig] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_fit(self) -> "BenchmarkConfig":
        if self.reference not in self.rows:
            raise ValueError(
                f"reference {self.reference!r} is none of the rows: {', '.join(self.rows)}"
            )
        for name, row in self.rows.items():
            unknown = {*(row.data or ()), *row.on} - set(self.data)
            if unknown:
                raise ValueError(
                    f"rows.{name} names the data set {min(unknown)!r}; there are "
                    f"{', '.join(self.data)}"
                )
        for names in (self.rows, self.data):
            by_slug: dict[str, str] = {}
            for name in names:
                other = by_slug.setdefault(slug(name), name)
                if other != name or not slug(name):
                    raise ValueError(f"the names {other!r} and {name!r} would share their files")
        return self

    def cells(self) -> list[CellKey]:
        """All cells, data set by data set, in the order of the rows."""
        return [
            CellKey(data, name, seed)
            for data in self.data
            for name, row in self.rows.items()
            if row.data is None or data in row.data
            for seed in (row.seeds or self.seeds)
        ]

    def run_config(self, key: CellKey) -> RunConfig:
        """The whole settings of a cell; ConfigError naming the cell where they are wrong."""
        row = self.rows[key.row]
        values: Settings = {}
        for part in (
            self.settings,
            self.data[key.data].settings,
            row.settings,
            row.on.get(key.data, {}),
            {"seed": key.seed},
        ):
            values = _merged(values, part)
        try:
            return RunConfig.parse(values, source=f"the cell ({key})")
        except ConfigError as error:
            raise ConfigError(f"{error}; see rows and data in the benchmark's settings") from None


def slug(name: str) -> str:
    """`SASRec, full softmax` -> `sasrec-full-softmax`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _merged(values: Settings, changes: Settings) -> Settings:
    result = copy.deepcopy(values)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            result[key] = _merged(old, value)
        else:
            result[key] = copy.deepcopy(value)
    return result
