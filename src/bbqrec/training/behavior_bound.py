"""The recipe of method bbqrec: how a `BehaviorBoundTokenizer` is trained."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from bbqrec.data import Dataset
from bbqrec.features import Features, standardize
from bbqrec.semantic_ids import SemanticIds
from bbqrec.tokenizer import (
    Assignment,
    BehaviorBoundTokenizer,
    ItemContent,
    QuantizedStreams,
    Streams,
    TokenizerConfig,
    WindowBatch,
    WindowSampler,
    assign,
    cooccurrence_vectors,
    cross_stream_loss,
    join_parts,
    quantization_loss,
    reconstruction_loss,
    sequence_to_item_loss,
    straight_through,
)

ENCODE_ROWS = 8192


class BehaviorBoundRecipe:
    """Method bbqrec: what the loop needs to train a `BehaviorBoundTokenizer`."""

    def __init__(
        self,
        features: list[Features],
        dataset: Dataset,
        config: TokenizerConfig,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self._config = config
        self._seed = seed
        self._device = device
        dims = {f.modality: f.dim for f in features}
        self._tokenizer = BehaviorBoundTokenizer(config, dims, dataset.num_items).to(device)
        self.model: nn.Module = self._tokenizer
        if config.use_id and config.id_start == "cooccurrence":
            self._start_item_vectors(dataset)
        self.optimizers: dict[str, Optimizer] = {"main": _main_optimizer(self._tokenizer, config)}
        if self._tokenizer.uses_club:
            self.optimizers["club"] = AdamW(
                self._tokenizer.clubs.parameters(),
                lr=config.club_learning_rate,
                weight_decay=0.0,
                fused=True,
            )
        is_present = [f.is_present for f in features]
        if config.use_id:
            is_present.append(torch.from_numpy(dataset.popularity() > 0))
        self._catalog = ItemContent(
            torch.arange(dataset.num_items, device=device),
            {f.modality: standardize(f).to(device) for f in features},
            torch.stack(is_present, 1).to(device),
        )
        self._sampler = WindowSampler(
            dataset.train,
            dataset.num_items,
            max_history=config.max_history,
            batch_size=config.batch_size,
            catalog_draws=config.catalog_draws,
            seed=seed,
        )
        # What `losses` leaves for `after_step` of the same batch.
        self._pairs: list[tuple[str, Tensor, Tensor]] = []
        self._quantized: QuantizedStreams | None = None

    def _start_item_vectors(self, dataset: Dataset) -> None:
        """Co-occurrence as item vectors of the length random ones have, plus a little noise.

        The noise gives a direction to items without pairs, and to widths beyond the catalog's.
        """
        weight = self._tokenizer.item_vectors.weight.data
        behavior = cooccurrence_vectors(
            dataset.train, dataset.num_items, dim=weight.shape[1], seed=self._seed
        )
        scaled = F.normalize(behavior, dim=-1) * weight.shape[1] ** 0.5
        weight.mul_(0.1)
        weight[:, : scaled.shape[1]] += scaled.to(weight.device)

    def start_epoch(self, epoch: int) -> None:
        """Start the codebooks by k-means once the streams mean something."""
        if epoch == self._config.quantized_from:
            self._start_codebooks()

    def num_batches(self, epoch: int) -> int:
        return self._sampler.num_batches

    def batches(self, epoch: int) -> Iterator[WindowBatch]:
        return (batch.to(self._device) for batch in self._sampler.batches(epoch))

    def inner_steps(self, batch: WindowBatch) -> None:
        """Nothing: the CLUB nets are fitted in `after_step`, on vectors computed anyway."""

    def losses(self, batch: WindowBatch) -> dict[str, Tensor]:
        config = self._config
        content = self._catalog.take(batch.items)
        streams = self._tokenizer(content)
        values = torch.cat([streams.vectors, streams.fused[:, None]], 1)
        terms: dict[str, Tensor] = {}
        self._quantized = None
        if batch.epoch >= config.quantized_from:
            quantized = self._quantized = self._tokenizer.quantize(streams)
            values = straight_through(values, quantized.sums)
            per_run = [
                quantization_loss(run, is_present, commitment=config.commitment)
                for run, is_present in quantized.runs
            ]
            terms["quantization"] = torch.stack(per_run).mean()
            drawn = streams.vectors
            if not config.behavior_aligned:  # then behavior must not reach the encoders
                drawn = drawn.detach()
            cross = cross_stream_loss(drawn, quantized.sums[:, :-1], streams.is_present)
            terms["cross"] = config.w_x * 0.25 * cross
        terms |= self._content_losses(batch, content, streams, values)
        if config.w_s > 0:
            joint = values[:, -1]
            users = self._tokenizer.sequence_encoder(joint[batch.histories])
            contrast = sequence_to_item_loss(
                users[batch.is_valid],
                joint,
                batch.targets[batch.is_valid],
                log_inclusion=batch.log_inclusion,
                temperature=config.temperature,
            )
            terms["sequence_to_item"] = config.w_s * contrast
        return terms

    def _content_losses(
        self, batch: WindowBatch, content: ItemContent, streams: Streams, values: Tensor
    ) -> dict[str, Tensor]:
        """Reconstruction and mutual information, on the uniform draws from the catalog."""
        config = self._config
        rebuilt, informations = [], []
        self._pairs = []
        for stream, modality in enumerate(self._tokenizer.modalities):
            rows = batch.drawn[content.is_present[batch.drawn, stream]]
            if len(rows) == 0:
                continue
            vectors = content.vectors[modality][rows]
            specific = None
            if config.behavior_aligned:
                specific = self._tokenizer.specific[modality](vectors)
            decoded = self._tokenizer.decode(modality, specific, values[rows, stream])
            rebuilt.append(reconstruction_loss(decoded, vectors))
            if self._tokenizer.uses_club and specific is not None:
                aligned = streams.vectors[rows, stream]
                # In float32: the bound is a small difference of large moments.
                with torch.autocast(self._device.type, enabled=False):
                    bounds = self._tokenizer.club(modality).bounds(aligned, specific)
                # The specific side first: an aligned encoder pressed while its counterpart still
                # holds what behavior needs would give that up instead.
                ramp = self._mi_ramp(batch.epoch)
                weighted = ramp * config.w_mi * bounds.of_specific
                informations.append(weighted + ramp**2 * config.w_mi_aligned * bounds.of_aligned)
                self._pairs.append((modality, aligned.detach(), specific.detach()))
        terms = {"reconstruction": torch.stack(rebuilt).sum()} if rebuilt else {}
        if informations:
            terms["information"] = torch.stack(informations).sum()
        return terms

    def _mi_ramp(self, epoch: int) -> float:
        """0 until quantization begins, then rising linearly to 1."""
        done = max(0, epoch + 1 - self._config.quantized_from)
        return min(1.0, done / max(1, self._config.w_mi_ramp_epochs))

    def after_step(self, batch: WindowBatch) -> None:
        if self._pairs:
            self._fit_clubs(batch.epoch)
        if self._quantized is not None:
            for quantizer, (run, is_present) in zip(
                self._tokenizer.all_quantizers(), self._quantized.runs, strict=True
            ):
                quantizer.revive(run, is_present, after=self._config.revive_after)

    def _fit_clubs(self, epoch: int) -> None:
        config = self._config
        is_early = epoch < config.quantized_from
        self._tokenizer.clubs.requires_grad_(True)
        for _ in range(config.club_steps_unquantized if is_early else config.club_steps):
            likelihoods = [self._tokenizer.club(m).likelihood(h, s) for m, h, s in self._pairs]
            (-torch.stack(likelihoods).sum()).backward()  # type: ignore[no-untyped-call]
            self.optimizers["club"].step()
            self.optimizers["club"].zero_grad(set_to_none=True)
        self._tokenizer.clubs.requires_grad_(False)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """How well codes tell items apart, before reassignment."""
        if epoch < self._config.quantized_from:
            return {}
        codes = self._on_catalog(lambda s: (self._tokenizer.quantize(s).codes[:, -1],))[0]
        used = [len(torch.unique(codes[:, level])) for level in range(codes.shape[1])]
        ids = SemanticIds(codes, self._config.codebook_sizes)
        return {"collision_rate": ids.collision_rate, "codes_used": sum(used) / len(used)}

    def assign(self) -> tuple[Assignment, dict[str, Tensor]]:
        """Semantic IDs of the catalog and its vectors, on the CPU."""
        targets, fused, aligned = self._on_catalog(
            lambda streams: (self._tokenizer.id_targets(streams), streams.fused, streams.vectors)
        )
        codebooks = [
            [codebook.detach().cpu() for codebook in quantizer.codebooks]
            for quantizer in self._tokenizer.id_quantizers()
        ]
        vectors = {"fused": fused}
        for stream, modality in enumerate(self._tokenizer.modalities):
            vectors[f"aligned.{modality}"] = aligned[:, stream].contiguous()
            if self._config.behavior_aligned:
                vectors[f"specific.{modality}"] = self._specific(modality, stream)
        return assign(*join_parts(targets, codebooks)), vectors

    @torch.no_grad()
    def _specific(self, modality: str, stream: int) -> Tensor:
        """What the modality's specific encoder says of every item, zero where it is missing."""
        self._tokenizer.eval()
        encoder, table = self._tokenizer.specific[modality], self._catalog.vectors[modality]
        specific = torch.cat([encoder(rows).cpu() for rows in torch.split(table, ENCODE_ROWS)])
        return specific * self._catalog.is_present[:, stream, None].cpu()

    def _start_codebooks(self) -> None:
        """Level by level k-means on all present streams of all items, stacked."""
        targets, is_present = self._on_catalog(self._tokenizer.parts)
        if self._config.shared_codebook:
            targets, is_present = targets.flatten(0, 1)[:, None], is_present.reshape(-1, 1)
        for part, quantizer in enumerate(self._tokenizer.all_quantizers()):
            rows = targets[is_present[:, part], part]
            quantizer.start(rows, iterations=self._config.kmeans_iterations, seed=self._seed)

    @torch.no_grad()
    def _on_catalog(self, function: Callable[[Streams], tuple[Tensor, ...]]) -> list[Tensor]:
        """What `function` makes of every item's streams, without dropout, on the CPU."""
        was_training = self._tokenizer.training
        self._tokenizer.eval()
        chunks = [
            [tensor.cpu() for tensor in function(self._tokenizer(self._catalog.take(rows)))]
            for rows in torch.split(self._catalog.items, ENCODE_ROWS)
        ]
        self._tokenizer.train(was_training)
        return [torch.cat(column) for column in zip(*chunks, strict=True)]


def _main_optimizer(model: BehaviorBoundTokenizer, config: TokenizerConfig) -> Optimizer:
    """AdamW; weight decay on matrices only, not on vectors looked up by number."""
    tables = ("quantizers.", "item_vectors.", "clubs.")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    decayed = [p for name, p in trained.items() if p.ndim > 1 and not name.startswith(tables)]
    others = [p for name, p in trained.items() if p.ndim < 2 or name.startswith(tables)]
    return AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        fused=True,
    )
