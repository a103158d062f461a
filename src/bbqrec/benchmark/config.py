"""The settings of a benchmark: what differs between two cells stands in one TOML file."""

import copy
import re
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from bbqrec.config import Config
from bbqrec.errors import ConfigError
from bbqrec.run_config import RunConfig

Settings = dict[str, Any]

CONTROLS = ("shuffled", "warm_start")
"""Kinds of rows that show what a part is worth; nobody would use them."""
TRAINED = ("model", *CONTROLS)
"""Kinds of rows with a run, hence settings, of their own."""
SEEDED = (*TRAINED, "merged")
"""Kinds of rows whose results change with the seed."""


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
    """One row of the tables: a trained model, a control of one, a baseline, or models merged.

    Args:
        kind: "shuffled" is a model whose items have each other's semantic IDs; "warm_start" one
            whose items' own vectors begin as those of another row's model.
        about: what the row is, in a sentence for the tables.
        of: the models whose answers a merged row joins, or the one that a warm start begins with.
        settings: sections of a run's settings in which the row differs from the others.
        on: data set -> further settings there.
        seeds, data: where the row is made; None is all of the benchmark's.
    """

    kind: Literal[
        "model", "shuffled", "warm_start", "popularity", "item_knn", "content_knn", "merged"
    ] = "model"
    about: str = ""
    of: tuple[str, ...] | None = None
    settings: Settings = Field({})
    on: dict[str, Settings] = Field({})
    seeds: tuple[int, ...] | None = Field(None, min_length=1)
    data: tuple[str, ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _parts_fit(self) -> "RowConfig":
        of = self.of or ()
        fits = {"merged": len(of) >= 2, "warm_start": len(of) == 1}
        if not fits.get(self.kind, self.of is None):
            raise ValueError(
                'of names the two or more rows that one of kind "merged" joins, or the one that a '
                'row of kind "warm_start" begins with, and no other kind has it'
            )
        if len(set(of)) < len(of):
            raise ValueError(f"of names a row twice: {', '.join(of)}")
        return self


class PartsRunConfig(RunConfig):
    """The settings of a cell that needs other cells' models: theirs beside its own.

    Args:
        parts: row -> its settings on the same data set and seed.
    """

    parts: dict[str, RunConfig]

    @model_validator(mode="after")
    def _parts_have_these_items(self) -> "PartsRunConfig":
        for name, part in self.parts.items():
            if part.prepare != self.prepare:
                raise ValueError(f"{name} has other [prepare] settings, hence other items")
        return self


class MergedRunConfig(PartsRunConfig):
    """The settings of a merged cell."""

    @model_validator(mode="after")
    def _parts_answer_alike(self) -> "MergedRunConfig":
        for name, part in self.parts.items():
            if part.ranking.rank_by == "both":
                raise ValueError(
                    f'{name} ranks by "both", a score that is no log-probability; only answers of '
                    'rank_by "generative" or "dense" can be merged'
                )
        return self


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

    @model_validator(mode="after")
    def _parts_are_models(self) -> "BenchmarkConfig":
        cells = set(self.cells())
        for name, row in self.rows.items():
            for part in row.of or ():
                if part not in self.rows:
                    raise ValueError(
                        f"rows.{name}.of names {part!r}, which is none of the rows: "
                        f"{', '.join(self.rows)}"
                    )
                if (kind := self.rows[part].kind) != "model":
                    raise ValueError(
                        f"rows.{name}.of names {part!r}, a row of kind {kind!r}; only models "
                        "can be named there"
                    )
                for key in cells:
                    if key.row == name and key._replace(row=part) not in cells:
                        raise ValueError(
                            f"the cell ({key}) needs the cell ({key._replace(row=part)}), which "
                            f"is none of this benchmark; give rows.{name} the seeds and data of "
                            "its parts"
                        )
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
        values, source = self._values(key), f"the cell ({key})"
        parts = self.rows[key.row].of
        try:
            if parts is None:
                return RunConfig.parse(values, source=source)
            of_parts = {name: self._values(key._replace(row=name)) for name in parts}
            form = MergedRunConfig if self.rows[key.row].kind == "merged" else PartsRunConfig
            return form.parse({**values, "parts": of_parts}, source=source)
        except ConfigError as error:
            raise ConfigError(f"{error}; see rows and data in the benchmark's settings") from None

    def _values(self, key: CellKey) -> Settings:
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
        return values


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
