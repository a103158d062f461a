"""The recipe that trains a recommender: histories in, codes and dense scores against targets."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from bbqrec.config import Config
from bbqrec.data import Dataset
from bbqrec.decoding import RankingConfig, make_ranker
from bbqrec.errors import ConfigError
from bbqrec.evaluation import quick_metrics, sample_cases
from bbqrec.products import linear
from bbqrec.recommender import (
    Evidence,
    ItemTables,
    Neighbors,
    OnePassOutput,
    OnePassRecommender,
    RecommenderConfig,
    SequenceModel,
    TreeDecoder,
    build_recommender,
    catalog_loss,
    similarity_edges,
)
from bbqrec.training.batches import Batch, TrainingHistories
from bbqrec.training.chunks import sum_in_chunks
from bbqrec.training.loop import FitResult, fit, num_epochs
from bbqrec.training.optimizer import adamw
from bbqrec.training.schedule import LoopConfig
from bbqrec.training.transitions import ChosenTransitions, choose_transitions
from bbqrec.training.windows import cut_prefixes, cut_windows, length_sorted_batches

MAX_LOGITS = {"cpu": 2**23, "cuda": 2**29}  # held at once


class TrainingConfig(LoopConfig):
    """How a recommender is trained; sizes of the model are in `RecommenderConfig`."""

    batch_size: int = Field(128, ge=1)
    """Windows of history per step (`one_pass`) or single prefixes per step (`paper`)."""
    windows: Literal["all", "random", "last"] = "all"
    """Per epoch and user: every target once, or those of one random or of the last window."""
    weight_decay: float = Field(0.01, ge=0)
    """Of the weight matrices."""
    bias_learning_rate: float = Field(10.0, gt=0)
    """Learning rate of the attention's bias tables, as a multiple of the others': their entries
    must move by whole units, those of other weights by hundredths."""
    additions_after: float = Field(0.0, ge=0, lt=1)
    """Share of the steps after which what repeats and neighbors gain is learned, and what content
    and codes add to item vectors that begin as their "own" (`recommender.item_start`). Learned from
    the start, it leaves vectors less to learn. Tables that begin late learn faster, to come as far,
    and no epoch before counts as the best."""
    joining_learning_rate: float = Field(0.1, gt=0)
    """Learning rate of content and codes that join own vectors, as a multiple of the others': what
    all items share takes over where it learns as fast."""
    generative_weight: float = Field(0.2, ge=0)
    """Of the loss of writing the codes of the next item; 0 trains the dense score alone."""
    dense_weight: float = Field(1.0, ge=0)
    """Of the loss of finding the next item among all."""
    num_negatives: int | None = Field(None, ge=1)
    """Items drawn uniformly, anew for each step, that a target competes with in the dense loss;
    None: the whole catalog."""
    validation_users: int = Field(2000, ge=1)
    """Drawn once, whose next items choose the best epoch."""
    validate_every: int = Field(1, ge=1)
    """Epochs between two validations."""


class UpdateConfig(Config):
    """How a trained recommender goes on when `bbqrec update` brings new data.

    Args:
        epochs: at most; the weights that were best on validation are kept, the old ones included.
        patience: stop after so many epochs without a better validation metric.
        learning_rate: at its highest.
    """

    epochs: int = Field(10, ge=1)
    patience: int = Field(3, ge=1)
    learning_rate: float = Field(1e-3, gt=0)


class StartVectors(NamedTuple):
    """Where own vectors of these items begin."""

    items: Int[Tensor, " known"]
    vectors: Float[Tensor, "known dim"]


class FittedRecommender(NamedTuple):
    """The model holds its best weights, and the transitions it was given after them."""

    model: SequenceModel
    fit: FitResult
    transitions: ChosenTransitions | None


def fit_recommender(
    dataset: Dataset,
    tables: ItemTables,
    config: RecommenderConfig,
    training: TrainingConfig,
    ranking: RankingConfig,
    *,
    seed: int,
    device: str = "cpu",
    work_dir: Path | None = None,
    identity: dict[str, Any] | None = None,
    model: SequenceModel | None = None,
    start: StartVectors | None = None,
) -> FittedRecommender:
    """Train on `dataset.train`, choose the epoch by NDCG@10 on a fixed validation sample.

    Args:
        start: where items' own vectors begin.
        model: a trained one over these tables, to go on from; it is kept as it is unless an epoch
            is better.
    """
    recipe = make_recipe(
        dataset,
        tables,
        config,
        training,
        ranking,
        seed=seed,
        device=device,
        model=model,
        start=start,
    )
    result = fit(
        recipe,
        training,
        device=torch.device(device),
        work_dir=work_dir,
        identity=identity or {},
        description="training the recommender",
        is_trained=model is not None,
    )
    chosen = None
    if config.neighbors.transitions:
        assert isinstance(recipe.model, OnePassRecommender)
        chosen = choose_transitions(
            recipe.model, recipe.ranker, dataset, recipe.cases, config.neighbors
        )
    return FittedRecommender(recipe.model, result, chosen)


def make_recipe(
    dataset: Dataset,
    tables: ItemTables,
    config: RecommenderConfig,
    training: TrainingConfig,
    ranking: RankingConfig,
    *,
    seed: int,
    device: str = "cpu",
    model: SequenceModel | None = None,
    start: StartVectors | None = None,
) -> "RecommenderRecipe":
    """A freshly initialized model, or the given one, with all that training it needs."""
    if training.num_negatives is not None and (config.repeat_bias or config.neighbors.enabled):
        raise ConfigError(
            "training.num_negatives compares a target with a few items only, too few to learn what "
            "repeats and neighbors are worth; set recommender.repeat_bias and "
            "recommender.neighbors.enabled to false with it"
        )
    torch.manual_seed(seed)
    if model is None:
        generator = torch.Generator().manual_seed(seed)
        train = dataset.train
        edges = similarity_edges(tables, train.items, train.offsets, config, generator)
        model = build_recommender(config, tables, edges)
        if start is not None:
            assert isinstance(model, OnePassRecommender)
            model.item_vectors.begin_as(*start)
    else:
        training = training.model_copy(update={"additions_after": 0.0})  # it knows them already
    model = model.to(device)
    return RecommenderRecipe(model, dataset, tables, config, training, ranking, seed, device)


class RecommenderRecipe:
    """See `loop.Recipe`."""

    def __init__(
        self,
        model: SequenceModel,
        dataset: Dataset,
        tables: ItemTables,
        config: RecommenderConfig,
        training: TrainingConfig,
        ranking: RankingConfig,
        seed: int,
        device: str,
    ) -> None:
        self.model = model
        self.optimizers: dict[str, Optimizer] = {"main": adamw(model, training)}
        self._training = training
        self._is_paper = config.form == "paper"
        self._max_history = config.max_history
        self._sequences = dataset.train
        self._histories = TrainingHistories(dataset.train, device)
        self._is_unseen = tables.is_unseen.to(device)
        self._seen = (~tables.is_unseen).nonzero().squeeze(1).to(device)
        self._num_folds = config.neighbors.num_folds
        self._neighbors = {
            name: Neighbors._make(x.to(device) for x in found)
            for name, found in tables.neighbors.items()
        }
        self._seed = seed
        self.ranker = make_ranker(model, tables.semantic_ids, ranking, device=device)
        self.cases = sample_cases(dataset.validation, training.validation_users, seed)

    def start_epoch(self, epoch: int) -> None:
        pass

    def num_batches(self, epoch: int) -> int:
        return math.ceil(len(self._windows(epoch)[0]) / self._training.batch_size)

    def batches(self, epoch: int) -> Iterator[Batch]:
        starts, lengths = self._windows(epoch)
        rng = np.random.default_rng([self._seed, epoch, 1])
        rows = length_sorted_batches(lengths, self._training.batch_size, rng)
        return self._histories.batches(starts, lengths, rows)

    def inner_steps(self, batch: Batch) -> None:
        pass

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        weights = self._training
        if self._is_paper:
            targets = batch.targets.gather(1, batch.lengths[:, None] - 1)[:, 0]
            logits = self.model(batch.items, batch.lengths, targets, num_items=batch.num_targets)
            return {"generative": self._code_loss(logits, targets)}
        assert isinstance(self.model, OnePassRecommender)
        vectors = self.model.item_vectors
        vectors.is_own_alone = vectors.starts_own and not self._has_additions
        # Items told by their content alone would be told by nothing yet.
        is_unseen = self._is_unseen if vectors.is_own_alone else self.model.draw_unseen()
        output = self.model(
            batch.items,
            batch.targets,
            with_codes=weights.generative_weight > 0,
            is_unseen=is_unseen,
            num_targets=batch.num_targets,
        )
        terms = {}
        if weights.generative_weight > 0:
            if output.code_logits is not None:
                loss = self._code_loss(output.code_logits, output.targets)
            else:
                loss = self._walk_loss(self.model, output, batch, is_unseen)
            terms["generative"] = weights.generative_weight * loss
        if weights.dense_weight > 0:
            loss = self._dense_loss(self.model, output, batch, is_unseen)
            terms["dense"] = weights.dense_weight * loss
        return terms

    def after_step(self, batch: Batch) -> None:
        pass

    @property
    def _has_additions(self) -> bool:
        """Whether training has come to what is learned after the vectors."""
        return all(group["lr"] > 0 for group in self.optimizers["main"].param_groups)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        epochs = num_epochs(self, self._training)
        is_last = epoch == epochs - 1
        if (epoch + 1) % self._training.validate_every and not is_last:
            return {}
        if isinstance(self.model, OnePassRecommender):
            self.model.item_vectors.is_own_alone = False  # as good as nothing by now, or learned
        metrics = quick_metrics(self.ranker, self.cases, exclude_seen=True, k=10)
        if 0 < epoch + 1 <= self._training.additions_after * epochs:
            return metrics  # a model that lacks what is still to begin is not the one wanted
        return {**metrics, "score": metrics["ndcg@10"]}

    def _code_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """-log p(code | codes before it), the mean over entries and levels."""
        return F.cross_entropy(
            logits.float().flatten(0, 1), self.model.code_targets(targets).flatten()
        )

    def _dense_loss(
        self,
        model: OnePassRecommender,
        output: OnePassOutput,
        batch: Batch,
        is_unseen: Bool[Tensor, " item"],
    ) -> Tensor:
        """-log p(item) under the dense score, the mean over entries."""
        states, table = output.user_states, model.output_table(is_unseen)
        if self._training.num_negatives is not None:
            return self._sampled_loss(output, table, self._training.num_negatives)
        return self._catalog_loss(model, output, batch, is_unseen, linear, states, table)

    def _walk_loss(
        self,
        model: OnePassRecommender,
        output: OnePassOutput,
        batch: Batch,
        is_unseen: Bool[Tensor, " item"],
    ) -> Tensor:
        """-log p(item) on a walk that scores all items, the mean over entries and levels."""
        decoder = model.decoder
        assert isinstance(decoder, TreeDecoder)
        compared = decoder.compare(output.user_states, model.prefix_vectors(decoder, is_unseen))
        inputs = decoder.inputs(compared)
        loss = self._catalog_loss(model, output, batch, is_unseen, decoder.item_scores, *inputs)
        return loss / len(compared)

    def _catalog_loss(
        self,
        model: OnePassRecommender,
        output: OnePassOutput,
        batch: Batch,
        is_unseen: Bool[Tensor, " item"],
        scores: Callable[..., Tensor],
        *inputs: Tensor,
    ) -> Tensor:
        """-log p(item) for scores of all items, of some entries at a time, the mean over entries.

        Args:
            inputs: what `scores` is made of; the first has a row for every entry.
        """
        has_additions = self._has_additions
        biases, num_inputs = model.dense_biases(), len(inputs)
        if not has_additions:
            biases = {name: bias for name, bias in biases.items() if name == "unseen"}
        users, targets = batch.users[output.rows], output.targets
        places = batch.before[output.rows] + output.places
        histories, following = self._histories.all, self._histories.following

        def loss(entries: slice, *values: Tensor) -> Tensor:
            evidence = Evidence(is_unseen)
            if has_additions:
                user, counts = users[entries], batch.counts.of(entries)
                evidence = model.evidence(
                    histories, user, places[entries], following=following, counts=counts
                )
                evidence = evidence._replace(
                    is_unseen=is_unseen, folds=user % self._num_folds, neighbors=self._neighbors
                )
            tables = dict(zip(biases, values[num_inputs:], strict=True))
            found = scores(*values[:num_inputs])
            # Never push down what training is not allowed to know.
            return catalog_loss(found, tables, evidence, targets[entries], without=self._is_unseen)

        size = max(1, MAX_LOGITS[targets.device.type] // len(is_unseen))
        total = sum_in_chunks(loss, *inputs, *biases.values(), size=size)
        return total / len(targets)

    def _sampled_loss(self, output: OnePassOutput, table: Tensor, num_negatives: int) -> Tensor:
        """The same against a few random items in place of the catalog."""
        seen = self._seen
        drawn = seen[torch.randint(len(seen), (num_negatives,), device=seen.device)]
        positive = (output.user_states * table[output.targets]).sum(-1, keepdim=True)
        negative = output.user_states @ table[drawn].T
        is_target = drawn == output.targets[:, None]
        negative = negative.masked_fill(is_target, -torch.inf)
        logits = torch.cat([positive, negative.to(positive.dtype)], 1).float()
        return F.cross_entropy(logits, torch.zeros_like(output.targets))

    def _windows(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rng = np.random.default_rng([self._seed, epoch, 0])
        cut = cut_prefixes if self._is_paper else cut_windows
        return cut(self._sequences, self._max_history, self._training.windows, rng)
