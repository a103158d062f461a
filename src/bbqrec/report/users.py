"""A few users of the test split: what they did, what is recommended, what came next."""

from typing import NamedTuple

from bbqrec.bundle import RunFolder
from bbqrec.recommend import Recommender
from bbqrec.report.metrics import OURS
from bbqrec.report.pictures import Pictures
from bbqrec.storage import read_tensors

NUM_USERS = 8
NUM_HISTORY = 6
NUM_RECOMMENDED = 10


class User(NamedTuple):
    """One test case; items oldest first in `history`, best first in `recommended`.

    Args:
        rank: of the target among all items, history items removed; 0 when it is beyond the depth
            of the evaluation.
    """

    user_id: str
    length: int
    history: list[int]
    recommended: list[int]
    target: int
    rank: int


def sample_users(run: RunFolder, recommender: Recommender, pictures: Pictures) -> list[User]:
    """See `Cases.spread`: the same for every model, chosen by no outcome."""
    dataset = recommender.dataset
    cases = dataset.test
    rows = cases.spread(NUM_USERS)
    ranks = read_tensors(run.folder("evaluate") / "test_ranks.safetensors")[f"{OURS}.filtered"]
    sample = cases.take(rows)
    histories = [sample.histories.row(row).tolist() for row in range(len(sample))]
    answers = recommender.recommend(
        [[dataset.item_ids[item] for item in history] for history in histories],
        k=min(NUM_RECOMMENDED, dataset.num_items),
    )
    item_of = {item_id: item for item, item_id in enumerate(dataset.item_ids)}
    return [
        User(
            user_id=dataset.user_ids[user],
            length=len(history),
            history=pictures.want(history[-NUM_HISTORY:]),
            recommended=pictures.want(item_of[item.item_id] for item in answer.items),
            target=pictures.want([target])[0],
            rank=int(ranks[row]),
        )
        for user, target, row, history, answer in zip(
            sample.users.tolist(), sample.targets.tolist(), rows, histories, answers, strict=True
        )
    ]
