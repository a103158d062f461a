"""Reading a history outside training gives what the layers as they are trained give."""

import pytest
import torch
from small_catalogs import FORMS, HISTORIES, LENGTHS, random_model

from bbqrec.recommender import SequenceModel, fixed_maps
from bbqrec.recommender.fixed_maps import Kept, normed
from bbqrec.recommender.transformer import NORM_EPSILON


def read(model: SequenceModel) -> torch.Tensor:
    places = model.read(HISTORIES, LENGTHS).places
    return places[:, 0] if places.shape[1] == 1 else places


@pytest.mark.parametrize("width", [64, 1024])
@pytest.mark.parametrize("name", FORMS)
def test_reading_equals_training_without_dropout(name: str, width: int) -> None:
    model = random_model(FORMS[name].model_copy(update={"d_ff": width, "num_encoder_layers": 2}))
    with torch.no_grad():  # a norm's gain of 1 would hide where it is forgotten
        for parameter in model.encoder.parameters():
            parameter.mul_(1 + torch.rand_like(parameter))

    expected = read(model)  # gradients flow: the layers one by one
    with torch.inference_mode():
        found = read(model)

    assert expected.requires_grad
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_many_rows_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(FORMS["paper"])
    with torch.inference_mode():
        expected = read(model)

        monkeypatch.setattr(fixed_maps, "MAX_HIDDEN", 0)
        monkeypatch.setattr(
            fixed_maps,
            "HIDDEN_AT_ONCE",
            3 * model.encoder.layers[0].feed_forward.inner.out_features,
        )
        found = read(model)

    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_half_precision_is_as_near_as_that_of_training() -> None:
    model = random_model(FORMS["paper"])
    full = read(model).detach()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = read(model).detach()
        with torch.inference_mode():
            found = read(model)

    assert found.dtype == torch.float32
    assert 0 < (found - full).abs().mean() < 1.5 * (trained - full).abs().mean()


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e4])
def test_the_norm_is_that_of_torch(scale: float) -> None:
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)) * scale

    expected = torch.nn.functional.rms_norm(x, (16,), eps=NORM_EPSILON)

    torch.testing.assert_close(normed(x, torch.float32), expected)


def test_what_is_kept_is_made_once_for_the_same_weights_and_precision() -> None:
    part, made = torch.nn.RMSNorm(2), []
    weight, kept = part.weight, Kept()

    def get() -> torch.Tensor:
        return kept.get([part], lambda dtype: made.append(dtype) or weight.detach().to(dtype))

    get(), get()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert get().dtype == torch.bfloat16
    assert get().dtype == torch.float32
    assert made == [torch.float32, torch.bfloat16]
    with torch.no_grad():
        weight.add_(1)
    assert get().tolist() == [2, 2]
    kept.train()
    get()
    assert made == [torch.float32, torch.bfloat16, torch.float32, torch.float32]
