"""The local text encoder reads content, forgets nothing on reload and knows its limits."""

from pathlib import Path

import pytest
import torch
from catalogs import Shop, probe
from torch import Tensor
from torch.nn.functional import cosine_similarity

from bbqrec.data import load_texts
from bbqrec.errors import FeatureError
from bbqrec.features import load_encoder
from bbqrec.features.lexical import LexicalEncoder


@pytest.fixture(scope="module")
def texts(shop: Shop) -> list[str]:
    return [text or "" for text in load_texts(shop.catalog.directory)]


@pytest.fixture(scope="module")
def encoder(texts: list[str]) -> LexicalEncoder:
    return LexicalEncoder.fit(texts)


def test_taste_and_kind_are_linear_in_the_vectors(
    shop: Shop, encoder: LexicalEncoder, texts: list[str]
) -> None:
    vectors = encoder.encode(texts)
    kind = torch.nn.functional.one_hot(shop.truth["kind"])

    assert probe(vectors, shop.truth["taste"]).min() > 0.7
    assert probe(vectors, kind).min() > 0.8
    # What only the picture shows cannot be found, so the probe itself does not invent.
    assert probe(vectors, shop.truth["picture_nuisance"]).max() < 0.1


def test_vectors_are_those_of_a_dense_decomposition(texts: list[str]) -> None:
    """Reference: scikit-learn's own TF-IDF, an exact SVD, singular values to the power 1/2."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    few = texts[:40]
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"
    )
    left, strength, _ = torch.linalg.svd(
        torch.from_numpy(vectorizer.fit_transform(few).toarray()), full_matrices=False
    )
    expected = ((left * strength) @ left.T).float()

    vectors = LexicalEncoder.fit(few, dim=40).encode(few)

    torch.testing.assert_close(vectors @ vectors.T, expected, atol=1e-4, rtol=0)


def test_a_reloaded_encoder_gives_the_same_vectors(
    encoder: LexicalEncoder, texts: list[str], tmp_path: Path
) -> None:
    encoder.save(tmp_path)

    again = load_encoder(tmp_path).encode([*texts[10:20], "unheard"])

    torch.testing.assert_close(again[:10], encoder.encode(texts)[10:20], atol=1e-5, rtol=0)
    assert torch.equal(again[10], torch.zeros(encoder.dim))


def test_markup_and_accents_do_not_hide_words() -> None:
    texts = ["Caf&eacute; &amp;amp; Bar <b>mug</b>", "cafe bar mug", "a wooden chair", "one lamp"]

    def similarity(vectors: Tensor) -> Tensor:
        return cosine_similarity(vectors[0], vectors[1], dim=0)

    assert similarity(LexicalEncoder.fit(texts).encode(texts)) > 0.999


def test_texts_without_words_are_refused() -> None:
    with pytest.raises(FeatureError, match="no word occurs"):
        LexicalEncoder.fit(["...", "!"])


def test_small_catalogs_get_no_more_directions_than_a_third_of_their_items(
    texts: list[str],
) -> None:
    assert LexicalEncoder.fit(texts[:90]).dim == 30
    assert LexicalEncoder.fit(texts[:90], dim=60).dim == 60


def test_one_text_is_enough() -> None:
    vectors = LexicalEncoder.fit(["a green mug"]).encode(["a green mug", "green"])

    assert vectors.shape == (2, 1)
    assert vectors.abs().min() > 0
