"""The encode stage: rows by item number, missing ones masked, work never lost and never stale."""

import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from catalogs import Catalog, Shop, write_catalog
from PIL import Image

from bbqrec.data import iter_images, load_texts
from bbqrec.errors import BBQRecError, ConfigError, CorruptArtifactError, FeatureError
from bbqrec.features import (
    Features,
    ModalityConfig,
    default_encoders,
    encode,
    load_encoder,
    load_features,
)
from bbqrec.features.image_files import open_image
from bbqrec.features.pretrained import PretrainedImageEncoder, PretrainedTextEncoder
from bbqrec.storage import write_json

COLORS = ["red", "green", "blue"]
WORDS = [*COLORS, "tall", "low", "mug", "lamp", "chair", "vase", "clock", "plain", "dotted"]


def words(num_texts: int) -> list[str]:
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, generator.integers(2, 9))) for _ in range(num_texts)]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small text model with random weights."""
    directory = tmp_path_factory.mktemp("model")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (directory / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizer(str(directory / "vocab.txt")).save_pretrained(directory)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    transformers.BertModel(config).save_pretrained(directory)
    return str(directory)


def test_the_drawn_shop_is_encoded_by_default(shop: Shop, tmp_path: Path) -> None:
    directory, dataset = shop.catalog
    config = default_encoders(directory)

    image, text = encode(directory, dataset, config, tmp_path)

    assert (image.modality, text.modality) == ("image", "text")
    loaded = load_features(tmp_path, catalog_fingerprint=dataset.catalog_fingerprint)
    for made, read in zip((image, text), loaded, strict=True):
        assert made.identity == read.identity
        assert torch.equal(made.vectors, read.vectors)
        assert made.is_present.all()
    texts = [t or "" for t in load_texts(directory)]
    pictures = [content for _, content in iter_images(directory)]
    for made, inputs in ((text, texts), (image, pictures)):
        encoder = load_encoder(tmp_path / "encoders" / made.modality)
        torch.testing.assert_close(encoder.encode(inputs[:9]), made.vectors[:9], atol=1e-5, rtol=0)


def test_items_without_a_text_are_masked(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "data", list("abcd"), ["red mug", None, "", "blue mug"])

    (text,) = encode(*catalog, default_encoders(catalog.directory), tmp_path / "out")

    assert text.is_present.tolist() == [True, False, False, True]
    assert not text.vectors[[1, 2]].any()
    assert text.identity["statistics"]["missing"] == 2


def with_images(directory: Path, shop: Shop, bad: dict[int, bytes], missing: set[int]) -> Catalog:
    contents = [content for _, content in iter_images(shop.catalog.directory)][:40]
    images = [None if i in missing else bad.get(i, content) for i, content in enumerate(contents)]
    return write_catalog(directory, [f"item-{i}" for i in range(40)], [None] * 40, images)


def test_bad_images_are_skipped_counted_and_named(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = {3: b"", 17: b"<html>", 39: b"\x89PNG\r\n\x1a\n"}
    catalog = with_images(tmp_path / "data", shop, bad, missing={5})

    with caplog.at_level(logging.WARNING):
        (image,) = encode(*catalog, default_encoders(catalog.directory), tmp_path / "out")

    assert (~image.is_present).nonzero().flatten().tolist() == [3, 5, 17, 39]
    assert (
        image.identity["statistics"] | {"images": 39, "unreadable": 3, "missing": 4}
        == (image.identity["statistics"])
    )
    assert "item-17" in caplog.text


def test_too_many_bad_images_are_an_error_also_when_nothing_is_recomputed(
    shop: Shop, tmp_path: Path
) -> None:
    catalog = with_images(tmp_path / "data", shop, dict.fromkeys(range(10), b"junk"), missing=set())
    strict = {"image": ModalityConfig(encoder="visual", max_bad_share=0.2)}
    lenient = {"image": ModalityConfig(encoder="visual", max_bad_share=0.3)}

    for _ in range(2):
        with pytest.raises(FeatureError, match="10 of 40 images cannot be read"):
            encode(*catalog, strict, tmp_path / "out")
    encode(*catalog, lenient, tmp_path / "out")
    with pytest.raises(FeatureError, match="10 of 40 images cannot be read"):
        encode(*catalog, strict, tmp_path / "out")


@pytest.mark.parametrize("use_cache", [True, False])
def test_features_are_made_anew_only_when_something_that_shapes_them_changes(
    tmp_path: Path, model_dir: str, monkeypatch: pytest.MonkeyPatch, use_cache: bool
) -> None:
    rows_encoded = count_rows(monkeypatch)
    config = {"text": ModalityConfig(encoder=model_dir)}
    texts = words(50)
    catalog = write_catalog(tmp_path / "data", [str(i) for i in range(50)], texts)
    cache = tmp_path / "cache" if use_cache else None

    def run(catalog: Catalog, config: dict[str, ModalityConfig], out: str = "out") -> int:
        rows_encoded.clear()
        (features,) = encode(*catalog, config, tmp_path / out, cache_dir=cache)
        Features.load(
            tmp_path / out, "text", catalog_fingerprint=catalog.dataset.catalog_fingerprint
        )
        assert load_encoder(tmp_path / out / "encoders" / "text").encode(["red mug"]).any()
        assert features.is_present.all()
        return sum(rows_encoded)

    assert run(catalog, config) == 51
    assert run(catalog, config) == 1  # the query above
    assert run(catalog, config, out="elsewhere") == (1 if use_cache else 51)
    changed_option = {"text": ModalityConfig(encoder=model_dir, max_length=7)}
    assert run(catalog, changed_option) == 51
    other_text = write_catalog(tmp_path / "data2", catalog.dataset.item_ids, [*texts[:49], "mug"])
    assert run(other_text, changed_option) == 51
    other_items = write_catalog(tmp_path / "data3", catalog.dataset.item_ids[::-1], texts)
    assert run(other_items, changed_option) == 51

    vectors = bytearray((tmp_path / "out" / "text.safetensors").read_bytes())
    vectors[-70] ^= 1
    (tmp_path / "out" / "text.safetensors").write_bytes(vectors)
    assert run(other_items, changed_option) == (1 if use_cache else 51)


def count_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    rows: list[int] = []
    original = PretrainedTextEncoder._encode_batch

    def counting(self: PretrainedTextEncoder, texts: list[str]) -> torch.Tensor:
        rows.append(len(texts))
        return original(self, texts)

    monkeypatch.setattr(PretrainedTextEncoder, "_encode_batch", counting)
    return rows


KILLED = """
import os, signal, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from bbqrec.data import Dataset
from bbqrec.features import ModalityConfig, encode
from bbqrec.features.image_files import open_image
from bbqrec.features.pretrained import PretrainedTextEncoder

original, calls = PretrainedTextEncoder._encode_batch, []

def fatal(self, texts):
    calls.append(texts)
    if len(calls) > 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, texts)

PretrainedTextEncoder._encode_batch = fatal
data, out, model = map(Path, sys.argv[1:])
config = {"text": ModalityConfig(encoder=str(model), batch_size=4)}
encode(data, Dataset.load(data), config, out)
"""


def test_a_killed_job_goes_on_where_it_stopped_and_ends_bitwise_equal(
    tmp_path: Path, model_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = write_catalog(tmp_path / "data", [str(i) for i in range(150)], words(150))
    config = {"text": ModalityConfig(encoder=model_dir, batch_size=4)}
    (expected,) = encode(*catalog, config, tmp_path / "uninterrupted")

    arguments = [str(catalog.directory), str(tmp_path / "out"), model_dir]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    rows_encoded = count_rows(monkeypatch)
    (resumed,) = encode(*catalog, config, tmp_path / "out")

    assert killed.returncode == -signal.SIGKILL
    assert sum(rows_encoded) == 150 - 64  # two whole shards of 8 batches were on disk
    assert torch.equal(resumed.vectors, expected.vectors)
    assert resumed.identity == expected.identity
    assert not (tmp_path / "out" / ".partial").exists()


def test_a_torn_part_is_computed_again(
    tmp_path: Path, model_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = write_catalog(tmp_path / "data", [str(i) for i in range(90)], words(90))
    config = {"text": ModalityConfig(encoder=model_dir, batch_size=4)}
    (expected,) = encode(*catalog, config, tmp_path / "uninterrupted")
    rows = count_rows(monkeypatch)
    counting = PretrainedTextEncoder._encode_batch

    def stops(self: PretrainedTextEncoder, texts: list[str]) -> torch.Tensor:
        if sum(rows) >= 80:
            raise KeyboardInterrupt
        return counting(self, texts)

    monkeypatch.setattr(PretrainedTextEncoder, "_encode_batch", stops)
    with pytest.raises(KeyboardInterrupt):
        encode(*catalog, config, tmp_path / "out")
    monkeypatch.setattr(PretrainedTextEncoder, "_encode_batch", counting)
    first, second = sorted((tmp_path / "out").rglob("part-*.safetensors"))
    first.write_bytes(first.read_bytes()[:100])
    rows.clear()
    (resumed,) = encode(*catalog, config, tmp_path / "out")

    assert second.name == "part-000001.safetensors"
    assert sum(rows) == 90 - 32
    assert torch.equal(resumed.vectors, expected.vectors)


def test_a_pretrained_image_model_masks_bad_files_too(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model itself is replaced by the average color: only the handling of rows is at stake."""
    catalog = with_images(tmp_path / "data", shop, dict.fromkeys((0, 7), b"junk"), missing={9})

    def average_color(self: object, pictures: list[Image.Image]) -> torch.Tensor:
        return torch.tensor([color_of(picture) for picture in pictures])

    def save(self: object, directory: Path) -> None:
        write_json(directory / "encoder.json", {})

    monkeypatch.setattr(PretrainedImageEncoder, "__init__", lambda self, *name, **options: None)
    monkeypatch.setattr(PretrainedImageEncoder, "encode_pictures", average_color)
    monkeypatch.setattr(PretrainedImageEncoder, "save", save)
    config = {"image": ModalityConfig(encoder=str(tmp_path), batch_size=3)}

    (image,) = encode(*catalog, config, tmp_path / "out")

    contents = dict(iter_images(catalog.directory))
    assert (~image.is_present).nonzero().flatten().tolist() == [0, 7, 9]
    for item in (1, 8, 10, 39):
        assert image.vectors[item].tolist() == color_of(open_image(contents[item]))


def color_of(picture: Image.Image) -> list[float]:
    """The average color."""
    return [float(v) for v in picture.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))]


def test_own_vectors_are_matched_by_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    catalog = write_catalog(tmp_path / "data", list("abcd"), [None] * 4)
    np.save(tmp_path / "v.npy", np.array([[1, 2], [3, 4], [0, 0], [5, 6]], dtype=np.float32))
    write_json(tmp_path / "v.ids.json", ["d", "stranger", "b", "a"])
    config = {"audio": ModalityConfig(encoder="vectors", path=str(tmp_path / "v.npy"))}

    (audio,) = encode(*catalog, config, tmp_path / "out")

    assert audio.vectors.tolist() == [[5, 6], [0, 0], [0, 0], [1, 2]]
    assert audio.is_present.tolist() == [True, False, False, True]
    assert audio.identity["statistics"] == {
        "unknown_items": 1,
        "present": 2,
        "missing": 2,
        "zero": 1,
    }
    with pytest.raises(FeatureError, match="brought along"):
        load_encoder(tmp_path / "out" / "encoders" / "audio")


def test_own_vectors_of_another_catalog_are_refused(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "data", ["1", "2"], [None] * 2)
    np.save(tmp_path / "v.npy", np.ones((2, 2), np.float32))
    write_json(tmp_path / "v.ids.json", ["x", "y"])
    config = {"audio": ModalityConfig(encoder="vectors", path=str(tmp_path / "v.npy"))}

    with pytest.raises(FeatureError, match="none of the 2 item ids"):
        encode(*catalog, config, tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "encoder"),
        ({"encoder": "lexical", "source": "image"}, "reads text"),
        ({"encoder": "vectors"}, "path goes with"),
        ({"encoder": "lexical", "path": "x.npy"}, "path goes with"),
        ({"encoder": "some/model", "dim": 8}, "dim goes with"),
        ({"encoder": "lexical", "width": 8}, "no such setting"),
        ({"encoder": "visual", "max_bad_share": 1.5}, "max_bad_share"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ModalityConfig.parse(values)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: {}, "nothing to encode"),
        (lambda: {"smell": ModalityConfig(encoder="some/model")}, "needs source"),
        (lambda: {"../up": ModalityConfig(encoder="lexical")}, "letters, digits"),
        (lambda: {"text": ModalityConfig(encoder="lexical")}, "no item has a text"),
        (lambda: {"image": ModalityConfig(encoder="visual")}, "no item has an image"),
        (lambda: {"text": ModalityConfig(encoder="lexical", columns=("price",))}, "price"),
    ],
)
def test_what_cannot_be_encoded_is_one_sentence(
    tmp_path: Path, make: Callable[[], dict[str, ModalityConfig]], says: str
) -> None:
    catalog = write_catalog(tmp_path / "data", ["a", "b"], [None, None])

    with pytest.raises(BBQRecError, match=says):
        encode(*catalog, make(), tmp_path / "out")

    assert not list((tmp_path).rglob("*.safetensors.partial"))
    assert not (tmp_path / "out" / "text.json").exists()


@pytest.mark.parametrize("name", ["encoder.json", "encoder.safetensors"])
@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_damaged_encoder_is_refused(shop: Shop, tmp_path: Path, modality: str, name: str) -> None:
    catalog = with_images(tmp_path / "data", shop, {}, set())
    source = write_catalog(catalog.directory, catalog.dataset.item_ids, words(40))
    encode(*source, default_encoders(source.directory), tmp_path / "out")
    damaged = tmp_path / "out" / "encoders" / modality

    (damaged / name).write_bytes((damaged / name).read_bytes()[:-9])

    with pytest.raises(CorruptArtifactError, match="encoder"):
        load_encoder(damaged)


def test_a_modality_may_have_any_name(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "data", list("abc"), ["red mug", "blue mug", "red lamp"])
    config = {
        "reviews": ModalityConfig(encoder="lexical", columns=("title",)),
        "text": ModalityConfig(encoder="lexical"),
    }

    reviews, text = encode(*catalog, config, tmp_path / "out")

    assert torch.equal(reviews.vectors, text.vectors)
