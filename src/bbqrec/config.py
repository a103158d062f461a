"""Settings: frozen, strict models read from TOML, changed by dotted overrides."""

import copy
import inspect
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from bbqrec.errors import ConfigError
from bbqrec.storage import read_text

C = TypeVar("C", bound="Config")

MAX_SHOWN_CHARS = 100


class Config(BaseModel):
    """Base of every settings model: plain values only, immutable, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True
    )

    @classmethod
    def parse(cls: type[C], values: dict[str, Any], *, source: str = "the settings") -> C:
        """Validate `values` (as TOML or JSON gives them); raise ConfigError naming the key."""
        try:
            # Through JSON, so that TOML's lists may fill tuples while strictness holds otherwise.
            return cls.model_validate_json(orjson.dumps(values))
        except TypeError as error:
            raise ConfigError(f"{source}: a value cannot be used: {error}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"]) or "(top level)"
            raise ConfigError(f"{source}: {key}: {_rule(first, cls)}") from None


def _rule(error: Any, model: type[BaseModel]) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])  # of a validator, which names what it is about
    if error["type"] != "extra_forbidden":
        return f"{error['msg']}, but it is {repr(error['input'])[:MAX_SHOWN_CHARS]}"
    known: type[BaseModel] | None = model
    for part in error["loc"][:-1]:
        field = known.model_fields.get(str(part)) if known else None
        annotation = field.annotation if field else None
        known = (
            annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel)
            else None
        )
    if known is None:
        return "there is no such setting; see `bbqrec settings`"
    names, wanted = sorted(known.model_fields), str(error["loc"][-1])
    meant = _paths_to(wanted, model) or get_close_matches(wanted, names, n=1)
    last = " or ".join([", ".join(meant[:-1]), *meant[-1:]] if meant[1:] else meant)
    offer = f" (did you mean {last}?)" if meant else ""
    return f"there is no such setting{offer}; known here: {', '.join(names)}"


def _paths_to(name: str, model: type[BaseModel], section: str = "") -> list[str]:
    """The dotted names of all settings in the sections of `model` whose last part is `name`."""
    found = []
    for key, field in model.model_fields.items():
        if key == name and section:
            found.append(section + key)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += _paths_to(name, field.annotation, f"{section}{key}.")
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; ConfigError with the line when it is not TOML."""
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        hint = "" if path.suffix == ".toml" else "; if it holds data, give it with --data"
        raise ConfigError(f"{path} is not valid TOML: {error}{hint}") from None


def as_toml(settings: Config, section: str = "") -> str:
    """Settings as commented TOML that `read_toml` accepts; settings without a value as comments.

    Where sections of any name may stand and none does, the field's example is shown as a comment.
    """
    lines = [f"\n[{section}]"] if section else []
    about, described = explained(type(settings))
    lines += [f"# {line}".rstrip() for line in about]
    tables = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        path = f"{section}.{name}".removeprefix(".")
        if isinstance(value, Config):
            tables.append(as_toml(value, path))
            continue
        lines += [f"# {line}" for line in described.get(name, [])]
        if isinstance(value, dict) and value:
            tables += _as_tables(value, path)
            continue
        if value is None or value == {}:
            lines.append(f"# {name} is not set")
            if field.examples:
                tables.append(_as_example(get_args(field.annotation)[1], field.examples[0], path))
        else:
            lines.append(f"{name} = {orjson.dumps(value).decode()}")
    return "\n".join([*lines, *tables])


def explained(model: type[Config]) -> tuple[list[str], dict[str, list[str]]]:
    """What a settings model says of itself, and of each of its settings: field -> lines.

    A setting is explained by a docstring below it or by an entry of the class's `Args:`, which may
    name several; such an entry stands at the first.
    """
    about, _, entries = (inspect.getdoc(model) or "").partition("\nArgs:\n")
    described = {
        name: field.description.splitlines()
        for name, field in model.model_fields.items()
        if field.description
    }
    latest: list[str] = []
    for line in entries.splitlines():
        if not line.startswith(" " * 8) and ": " in line:
            names, _, text = line.strip().partition(": ")
            first, *more = names.split(", ")
            latest = described[first] = [f"{names}: {text}" if more else text]
            described |= {name: [] for name in more}
        elif line.strip():
            latest.append(line.strip())
    return about.strip().splitlines(), described


def _as_example(model: type[Config], entries: dict[str, dict[str, Any]], section: str) -> str:
    """Tables to take the comment signs from, below what may stand in each."""
    about, described = explained(model)
    lines = ["", f"[{section}.NAME], for example:", *about]
    for name, text in described.items():
        lines += [f"{name}: {text[0]}", *text[1:]]
    for name, values in entries.items():
        lines += ["", f"[{section}.{name}]"]
        lines += [f"{key} = {orjson.dumps(value).decode()}" for key, value in values.items()]
    return "\n".join(f"# {line}" if line else "" for line in lines)


def _as_tables(entries: dict[str, Any], section: str) -> list[str]:
    """A dictionary of settings as one table each, one of plain values as a table of its own."""
    if all(isinstance(value, Config) for value in entries.values()):
        return [as_toml(value, f"{section}.{key}") for key, value in entries.items()]
    # Keys are quoted: event types may hold spaces and dots.
    lines = [
        f"{orjson.dumps(key).decode()} = {orjson.dumps(value).decode()}"
        for key, value in entries.items()
    ]
    return ["\n".join([f"\n[{section}]", *lines])]


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`values` with each `section.key=value` set; a value is TOML, or a bare word as a string."""
    result = copy.deepcopy(values)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"the override {override!r} must look like section.key=value, "
                "for example training.epochs=5"
            )
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *sections, last = key.strip().split(".")
        table = result
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise ConfigError(f"the override {override!r}: {section} is not a section")
        table[last] = value
    return result
