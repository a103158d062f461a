"""TIGER of two public packages, torch-rechub and cornac: a search and a training step.

    python -m venv peers && peers/bin/pip install -e . transformers==5.23.0 pandas powerlaw \
        && peers/bin/pip install --no-deps cornac==3.0.1 torch-rechub==0.9.0
    peers/bin/python benchmarks/outside.py [--rounds 5]

Not part of `make bench`: these packages want an environment of their own. The same sizes and the
same catalog, beams of 20, 8 users, one token per code, batches of 32 for training. torch-rechub's
model is Hugging Face's T5 with a forward of its own and has Hugging Face's weights here, so it must
find what "exact" finds; cornac's has a matrix of its own for each level's codes, so only its time
compares. cornac searches one user at a time; its model is called as its `TIGER` calls it.
"""

import statistics
from collections.abc import Callable

import hugging_face
import rounds
import torch
import workload
from cornac.models.tiger.tiger import TIGERSeq2Seq
from decode import Baseline, search
from torch_rechub.models.generative.tiger import TIGERModel
from train import batch, code_loss, step

from bbqrec.decoding import PrefixIndex
from bbqrec.semantic_ids import SemanticIds

USERS, BEAM_WIDTH, EXAMPLES = 8, 20, 32
BASELINE, RECHUB, CORNAC = "Hugging Face T5", "torch-rechub's TIGER", "cornac's TIGER"


def children(ids: SemanticIds) -> list[dict[tuple[int, ...], torch.Tensor]]:
    """Per level the codes that follow each prefix, as cornac's `TIGER` prepares them."""
    found: list[dict[tuple[int, ...], set[int]]] = [{} for _ in ids.codebook_sizes]
    for codes in map(tuple, ids.codes.tolist()):
        for level, code in enumerate(codes):
            found[level].setdefault(codes[:level], set()).add(code)
    return [{prefix: torch.tensor(sorted(x)) for prefix, x in level.items()} for level in found]


def cornac_model(ids: SemanticIds) -> TIGERSeq2Seq:
    config = workload.EXACT
    return TIGERSeq2Seq(
        ids.codebook_sizes,
        d_model=config.d_model,
        d_ff=config.d_ff,
        num_heads=config.num_heads,
        d_kv=config.head_dim,
        num_enc_layers=config.num_encoder_layers,
        num_dec_layers=config.num_decoder_layers,
        dropout=config.dropout,
    ).eval()


def rechub_model(baseline: Baseline) -> TIGERModel:
    model = TIGERModel(baseline.t5.config).eval()
    model.load_state_dict(baseline.t5.state_dict())
    return model


def rows_of(
    report: rounds.Report, work: str, unit: str, count: int, run: dict[str, Callable[[], object]]
) -> None:
    times, working_mb = rounds.interleave(run, report.options.rounds)
    for name, taken in times.items():
        report.row(
            work=work,
            alternative=name,
            **{unit: rounds.rounded(count / statistics.median(taken))},
            **rounds.ratio(times[BASELINE], taken),
            working_mb=working_mb[name],
        )


def main() -> None:
    found = rounds.options(__doc__)
    report = rounds.Report("outside", found)
    ids = workload.clustered_ids()
    index = PrefixIndex.build(ids)
    model = workload.random_model(workload.EXACT, ids)
    baseline = Baseline(model, ids)
    rechub, cornac, following = rechub_model(baseline), cornac_model(ids), children(ids)
    items, lengths = workload.histories(USERS, padded=False)
    tokens = model.history_tokens(items, lengths)
    is_used = torch.ones_like(tokens, dtype=torch.bool)

    def ask_rechub() -> tuple[torch.Tensor, torch.Tensor]:
        return hugging_face.generate(
            rechub,
            tokens,
            is_used,
            beam_width=BEAM_WIDTH,
            num_levels=ids.num_levels,
            trie=baseline.trie,
        )

    def ask_cornac() -> None:
        # Its offsets begin at 1 and it has no end token: 80 tokens instead of 81.
        for row in tokens[:, :-1] - 1:
            cornac.generate_beam(row[None], torch.ones(1, len(row)), BEAM_WIDTH, following)

    expected = ids.tokens[search(model, index, items, lengths, BEAM_WIDTH).items]
    if not torch.equal(ask_rechub()[0], expected):
        raise SystemExit("torch-rechub's TIGER does not find what Hugging Face finds")
    rows_of(
        report,
        "search, beams of 20",
        "users_per_s",
        USERS,
        {
            BASELINE: lambda: baseline.search(items, lengths, BEAM_WIDTH),
            RECHUB: ask_rechub,
            CORNAC: ask_cornac,
            "exact, fp32": lambda: search(model, index, items, lengths, BEAM_WIDTH),
        },
    )

    items, targets = batch(EXAMPLES)
    tokens = model.history_tokens(items, torch.full((EXAMPLES,), workload.NUM_POSITIONS))
    wanted = targets[:, -1]
    labels, codes = ids.tokens[wanted], ids.codes[wanted].long()
    mask = torch.ones_like(tokens)
    losses = {
        BASELINE: (baseline.t5, lambda: baseline.t5(input_ids=tokens, labels=labels).loss),
        RECHUB: (
            rechub,
            lambda: rechub(input_ids=tokens, attention_mask=mask, labels=labels).loss,
        ),
        CORNAC: (cornac, lambda: cornac(tokens[:, :-1] - 1, mask[:, :-1].float(), codes)),
        "exact, fp32": (model, lambda: code_loss(model, items, targets)),
    }
    steps = {name: step(network, loss, "fp32") for name, (network, loss) in losses.items()}
    rows_of(report, "training step", "examples_per_s", EXAMPLES, steps)
    report.close()


if __name__ == "__main__":
    main()
