"""Every setting is explained where it is printed."""

import tomllib
from collections.abc import Iterator
from typing import get_args

import pytest

from bbqrec.config import Config, as_toml, explained
from bbqrec.run_config import RunConfig


def models(model: type[Config]) -> Iterator[type[Config]]:
    yield model
    for field in model.model_fields.values():
        annotations = [field.annotation, *get_args(field.annotation)]
        for annotation in annotations:
            if isinstance(annotation, type) and issubclass(annotation, Config):
                yield from models(annotation)


@pytest.mark.parametrize("model", list(dict.fromkeys(models(RunConfig))), ids=lambda m: m.__name__)
def test_every_setting_is_explained_and_nothing_else(model: type[Config]) -> None:
    _, described = explained(model)

    sections = {
        name
        for name, field in model.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config)
    }
    assert set(model.model_fields) - sections == set(described) - sections


def test_an_explanation_stands_above_its_setting() -> None:
    lines = as_toml(RunConfig()).splitlines()

    place = lines.index("min_user = 1")
    assert lines[place - 1].startswith("# min_user, min_item: k-core bounds")
    assert "# Args:" not in lines


def test_an_example_of_sections_with_any_name_is_what_can_be_set() -> None:
    text = as_toml(RunConfig())

    start, end = text.index("# [encode.text]"), text.index("[tokenizer]")
    example = "\n".join(line.removeprefix("# ") for line in text[start:end].splitlines())
    config = RunConfig.parse(tomllib.loads(text[:start] + example + text[end:]))
    assert {name: c.source_for(name) for name, c in config.encode.items()} == {
        "text": "text",
        "image": "image",
        "audio": "vectors",
    }
    assert config.model_copy(update={"encode": {}}) == RunConfig()
    assert as_toml(config).count("[encode.text]") == 1
