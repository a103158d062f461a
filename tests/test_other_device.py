"""A run on a device that is not the CPU: nothing is left behind, and the answers are the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretend_device import There, WrongDeviceError, pretended
from tiny_run import GENERATES, draw_tiny_shop, tiny_config

from bbqrec.bundle import RunFolder
from bbqrec.explain import Explainer
from bbqrec.pipeline import run_stages
from bbqrec.recommend import Recommender
from bbqrec.training import recommender as recipes

SHORT: dict[str, dict[str, Any]] = {
    "tokenizer": {"epochs": 2, "unquantized_epochs": 1},
    "training": {"epochs": 1, "precision": "fp32", "validation_users": 20},
    "ranking": {"precision": "fp32"},
}
RUNS: dict[str, dict[str, Any]] = {
    "fast": {
        "compare": ["both", "generative"],
        "recommender": {"neighbors": {"transitions": True}},
    },
    "generate": GENERATES,
    "generate, no neighbors": {
        **GENERATES,
        "recommender": {"decoder": "tree", "neighbors": {"enabled": False}},
    },
    "paper": {
        "tokenizer": {"method": "rq_vae"},
        "recommender": {"form": "paper", "decoder": "transformer", "normalize": "vocabulary"},
        "ranking": {"rank_by": "generative", "beam_width": 20},
    },
    "one_pass, LETTER, negatives": {
        "tokenizer": {"method": "letter"},
        "recommender": {
            "decoder": "transformer",
            "normalize": "vocabulary",
            "repeat_bias": False,
            "neighbors": {"enabled": False},
        },
        "training": {"num_negatives": 16},
    },
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_tiny_shop(tmp_path_factory.mktemp("shop") / "shop")


@pytest.mark.parametrize("name", RUNS)
def test_a_run_on_another_device_answers_as_on_the_cpu(
    name: str, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = RUNS[name]
    merged = {key: {**part, **sections.get(key, {})} for key, part in SHORT.items()}
    run = RunFolder(tmp_path / "run")

    with pretended() as device:
        monkeypatch.setitem(recipes.MAX_LOGITS, device.type, recipes.MAX_LOGITS["cuda"])
        run_stages(run, tiny_config(**{**sections, **merged}), source=shop, device=str(device))
        there = Recommender.load(run, device=str(device))
        assert isinstance(next(iter(there.model.parameters())).data, There)
        histories = list(there.histories().values())[:20]
        found_there = there.recommend(histories)
        asked = histories[0], [item.item_id for item in found_there[0].items[:3]]
        explained_there = Explainer.of_run(run, there).explain(*asked)

    here = Recommender.load(run)
    found = here.recommend(histories)
    for mine, other in zip(found, found_there, strict=True):
        assert [item.item_id for item in mine.items] == [item.item_id for item in other.items]
        scores = [[item.log_probability for item in answer.items] for answer in (mine, other)]
        np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-4)
    explained = Explainer.of_run(run, here).explain(*asked)
    scores = [[each.score for each in answer] for answer in (explained, explained_there)]
    np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "mixes",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.cat([x, torch.ones(3)]),
        lambda x: x.gather(0, torch.tensor([0])),
        lambda x: torch.where(torch.tensor([True, False, True]), x, x),
        lambda x: torch.nn.functional.linear(x, torch.ones(2, 3)),
    ],
)
def test_what_mixes_devices_is_noticed(mixes: Any) -> None:
    with pretended() as device, pytest.raises(WrongDeviceError, match="is on the CPU"):
        mixes(torch.zeros(3).to(device))


def test_the_device_computes_and_comes_back() -> None:
    with pretended() as device:
        x = torch.arange(3.0, device=device, requires_grad=True)
        (x * torch.tensor(2.0)).square().sum().backward()
        x.data += 1
        assert x.device == device
        assert x.grad is not None
        assert x.grad.device == device
        assert x.grad.cpu().tolist() == [0.0, 8.0, 16.0]
        assert x.detach().cpu().tolist() == [1.0, 2.0, 3.0]
        with pytest.raises(RuntimeError):
            x.detach().numpy()
