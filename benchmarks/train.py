"""One pass over a history against T5 trained on one prefix per example.

    python benchmarks/train.py [--quick] [--rounds 5]

A step is forward, code loss, backward, clipping and AdamW, with dropout 0.1, for both sides; a
pass over 20 items and their followers is 20 examples. "exact" is the form `paper`, "generate, no
neighbors" that preset without them, which compares each state with all prefixes of the catalog. The
dense score, which the forms with one pass may learn besides, is not part of it. Before anything is
timed, the loss at every position must be that of the same model reading that prefix alone, and
that of "exact" must be T5's with the same weights.

Rows "as on Beauty" have histories drawn as long as its users leave items to predict: two and more,
5.9 on average. Hugging Face pads them to the longest of the batch, ours leaves out
what is padded; `epoch_s` is how long all 131,413 examples of Beauty would take.
"""

import math
import statistics
from collections.abc import Callable

import hugging_face
import rounds
import torch
import torch.nn.functional as F
import workload
from torch import Tensor, nn

from bbqrec.precision import Precision, autocast
from bbqrec.recommender import OnePassRecommender, SequenceModel
from bbqrec.semantic_ids import SemanticIds

NUM_POSITIONS = workload.NUM_POSITIONS
BASELINE = "Hugging Face, fp32"
BEAUTY = ", as on Beauty"
BEAUTY_EXAMPLES, BEAUTY_MEAN = 131_413, 5.88
MODELS = {
    "exact": workload.EXACT,
    "one pass + decoder": workload.ONE_PASS,
    "fast": workload.FAST,
    "fast, as wide as T5": workload.WIDE_FAST,
    "generate, no neighbors": workload.GENERATE,
}


def step(model: nn.Module, loss: Callable[[], Tensor], precision: Precision) -> Callable[[], None]:
    """A training step on one batch, repeated."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> None:
        with autocast(precision, "cpu"):
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def code_loss(
    model: SequenceModel, items: Tensor, targets: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """-log p of the codes, over one target per row (`paper`) or one per position.

    Args:
        lengths: of the histories, for `paper`, whose targets are then one each; None: all 20.
    """
    if isinstance(model, OnePassRecommender):
        output = model(items, targets)
        logits, wanted = output.code_logits, output.targets
        assert logits is not None
    else:
        wanted = targets[:, -1] if lengths is None else targets
        full = torch.full((len(items),), NUM_POSITIONS)
        logits = model(items, full if lengths is None else lengths, wanted)
    return F.cross_entropy(logits.float().flatten(0, 1), model.code_targets(wanted).flatten())


def check_equality(model: SequenceModel) -> None:
    """Log-probability of each position's target: in one pass, and of each prefix alone."""
    items, targets = batch(4)
    output = model(items, targets)  # as it is trained, but for dropout
    with torch.inference_mode():
        scores = output.code_logits.log_softmax(-1)
        wanted = model.code_targets(output.targets)[..., None]
        found = scores.gather(-1, wanted).sum((1, 2)).view(targets.shape)
        for length in range(1, NUM_POSITIONS + 1):
            lengths = torch.full((len(items),), length)
            place = slice(length - 1, length)
            alone = model.score_items(items[:, :length], lengths, targets[:, place])
            torch.testing.assert_close(found[:, place], alone, atol=1e-4, rtol=1e-4)


def check_exact(model: SequenceModel, num_tokens: int) -> None:
    """The loss that T5 has with the same weights."""
    t5 = hugging_face.random_t5(workload.EXACT, num_tokens)
    hugging_face.copy_weights(t5, model, workload.EXACT)
    items, targets = batch(4)
    tokens = model.history_tokens(items, torch.full((len(items),), NUM_POSITIONS))
    with torch.inference_mode():
        expected = t5(input_ids=tokens, labels=model.catalog.tokens[targets[:, -1]]).loss
        torch.testing.assert_close(code_loss(model, items, targets), expected)


def batch(size: int) -> tuple[Tensor, Tensor]:
    """Histories of 20 items, and what followed each position."""
    items, _ = workload.histories(size, padded=False, longest=NUM_POSITIONS + 1)
    return items[:, :-1], items[:, 1:]


def beauty_batch(size: int) -> tuple[Tensor, Tensor]:
    """As `batch`, with -1 behind as many places as users of Beauty have."""
    items, targets = batch(size)
    uniform = torch.rand(size, generator=torch.Generator().manual_seed(2))
    rest = BEAUTY_MEAN - 2  # geometric, beyond the two that everybody has
    more = (uniform.log() / math.log(rest / (1 + rest))).floor().long()
    is_padding = torch.arange(NUM_POSITIONS) >= (2 + more)[:, None]
    return items.masked_fill(is_padding, -1), targets.masked_fill(is_padding, -1)


def prefixes(items: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As many single examples as there are users: histories, targets and lengths."""
    user, place = (targets >= 0).nonzero(as_tuple=True)
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randperm(len(user), generator=generator)[: len(items)]
    user, place = user[drawn], place[drawn]
    longest = int(place.max()) + 1
    is_padding = torch.arange(longest) > place[:, None]
    histories = items[user, :longest].masked_fill(is_padding, -1)
    return histories, targets[user, place], place + 1


def measure_beauty(report: rounds.Report, ids: SemanticIds, size: int) -> None:
    """Rows for histories of real lengths, in float32."""
    items, targets = beauty_batch(size)
    histories, wanted, lengths = prefixes(items, targets)
    exact = workload.random_model(workload.EXACT, ids)
    t5 = hugging_face.random_t5(workload.EXACT, ids.num_tokens)
    hugging_face.copy_weights(t5, exact, workload.EXACT)
    tokens = exact.history_tokens(histories, lengths)
    is_used = torch.arange(tokens.shape[1]) <= (lengths * ids.num_levels)[:, None]
    asked = {"input_ids": tokens, "attention_mask": is_used.long(), "labels": ids.tokens[wanted]}
    with torch.inference_mode():
        ours = code_loss(exact, histories, wanted, lengths)
        torch.testing.assert_close(ours, t5(**asked).loss)
    alternatives = {
        f"Hugging Face{BEAUTY}": step(t5, lambda: t5(**asked).loss, "fp32"),
        f"exact{BEAUTY}": step(exact, lambda: code_loss(exact, histories, wanted, lengths), "fp32"),
    }
    for name in ("one pass + decoder", "fast", "fast, as wide as T5"):
        model = workload.random_model(MODELS[name], ids)
        loss = lambda m=model: code_loss(m, items, targets)  # noqa: E731
        alternatives[f"{name}{BEAUTY}"] = step(model, loss, "fp32")
    times, working_mb = rounds.interleave(alternatives, report.options.rounds)
    per_pass = int((targets >= 0).sum())
    per_example = {
        label: [
            seconds / (size if label.startswith(("Hugging", "exact")) else per_pass)
            for seconds in taken
        ]
        for label, taken in times.items()
    }
    for label, taken in per_example.items():
        report.row(
            alternative=label,
            examples_per_s=rounds.rounded(1 / statistics.median(taken)),
            **rounds.ratio(per_example[f"Hugging Face{BEAUTY}"], taken),
            working_mb=working_mb[label],
            epoch_s=rounds.rounded(BEAUTY_EXAMPLES * statistics.median(taken)),
        )


def main() -> None:
    found = rounds.options(__doc__, keeps_kernels=False)
    report = rounds.Report("train", found)
    ids = workload.clustered_ids()
    size = 16 if found.quick else 64
    items, targets = batch(size)
    names = ("one pass + decoder", "fast") if found.quick else tuple(MODELS)
    for name in names:
        model = workload.random_model(MODELS[name], ids)
        if name == "exact":
            check_exact(model, ids.num_tokens)
        else:
            check_equality(model)

    alternatives: dict[str, Callable[[], None]] = {}
    reader = workload.random_model(workload.EXACT, ids)
    tokens = reader.history_tokens(items, torch.full((size,), NUM_POSITIONS))
    labels = ids.tokens[targets[:, -1]]
    for precision in ("fp32",) if found.quick else ("fp32", "bf16"):
        t5 = hugging_face.random_t5(workload.EXACT, ids.num_tokens)
        alternatives[f"Hugging Face, {precision}"] = step(
            t5, lambda t5=t5: t5(input_ids=tokens, labels=labels).loss, precision
        )
        for name in names:
            model = workload.random_model(MODELS[name], ids)
            loss = lambda m=model: code_loss(m, items, targets)  # noqa: E731
            alternatives[f"{name}, {precision}"] = step(model, loss, precision)
    times, working_mb = rounds.interleave(alternatives, found.rounds)
    # Per example, not per step: where every position is one, a step has 20 times as many.
    per_example = {
        label: [
            seconds / size / (1 if label.startswith(("Hugging", "exact")) else NUM_POSITIONS)
            for seconds in taken
        ]
        for label, taken in times.items()
    }
    for label, taken in per_example.items():
        row = {
            "alternative": label,
            "examples_per_s": rounds.rounded(1 / statistics.median(taken)),
            **rounds.ratio(per_example[BASELINE], taken),
            "working_mb": working_mb[label],
        }
        name, _, precision = label.rpartition(", ")
        config = MODELS.get(name, workload.EXACT)
        is_paper = config.form == "paper"
        if config.decoder != "tree":
            flops = workload.training_flops(config) / (1 if is_paper else NUM_POSITIONS)
            floor_s = report.floor_s(flops, precision)
            row["share_of_floor"] = rounds.rounded(floor_s / statistics.median(taken))
        report.row(**row)
        if found.quick and label == "one pass + decoder, fp32":
            report.require("one-pass training", row["ratio"], 12)
    if not found.quick:
        measure_beauty(report, ids, size)
    report.close()


if __name__ == "__main__":
    main()
