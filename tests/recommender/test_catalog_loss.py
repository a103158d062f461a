"""The gradient in closed form is that of autograd."""

import pytest
import torch
import torch.nn.functional as F
from small_catalogs import DEFAULT, HISTORIES, NUM_ITEMS, RAGGED, random_model, random_tables

from bbqrec.products import linear
from bbqrec.recommender import RecommenderConfig, catalog_loss, dense_logits
from bbqrec.recommender.config import NeighborConfig

PLAIN = {"neighbors": NeighborConfig(enabled=False)}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "config",
    [
        DEFAULT,
        DEFAULT.model_copy(update={"repeat_bias": False}),
        DEFAULT.model_copy(update=PLAIN),
        DEFAULT.model_copy(update={**PLAIN, "repeat_bias": False, "use_content": False}),
    ],
    ids=["all", "neighbors", "repeats", "vectors"],
)
def test_the_loss_and_its_gradients_are_those_of_the_logits(
    config: RecommenderConfig, precision: torch.dtype
) -> None:
    tables = random_tables()
    has_neighbors = config.neighbors.enabled
    model = random_model(config, tables if has_neighbors else tables._replace(neighbors={}))
    rows, places = (HISTORIES >= 0).nonzero(as_tuple=True)
    targets = (HISTORIES[rows, places] * 7 + 3) % NUM_ITEMS
    without = torch.zeros(NUM_ITEMS, dtype=torch.bool)
    without[[index for index in range(NUM_ITEMS) if index not in targets][:2]] = True
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(len(rows), config.d_model, generator=generator)
    states = F.normalize(states, dim=1).requires_grad_()
    table = model.output_table().detach().requires_grad_()
    biases = {name: bias.detach().requires_grad_() for name, bias in model.dense_biases().items()}
    for bias in biases.values():
        torch.nn.init.normal_(bias, generator=generator)
    inputs = [states, table, *biases.values()]
    evidence = model.evidence(RAGGED, rows, places)
    assert (evidence.repeats is not None) == config.repeat_bias
    assert (evidence.recent is not None) == has_neighbors

    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        logits = dense_logits(states, table, biases, evidence).masked_fill(without, -torch.inf)
        expected = F.cross_entropy(logits, targets, reduction="sum")
        scores = linear(states, table)
        found = catalog_loss(scores, biases, evidence, targets, without=without)

    tolerance = {} if precision == torch.float32 else {"atol": 0.1, "rtol": 0.02}
    torch.testing.assert_close(found, expected, **tolerance)
    wanted = torch.autograd.grad(3 * expected, inputs)
    for gradient, value in zip(torch.autograd.grad(3 * found, inputs), wanted, strict=True):
        assert gradient.dtype == value.dtype
        torch.testing.assert_close(gradient, value, **tolerance)
