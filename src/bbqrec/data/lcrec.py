"""Files of LC-Rec, LETTER and MQL4GRec, for whoever trains those on our semantic IDs."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from bbqrec.data.collected import hash_user
from bbqrec.data.dataset import Dataset
from bbqrec.data.exchange import write_index_json
from bbqrec.semantic_ids import SemanticIds
from bbqrec.storage import write_bytes, write_json

logger = logging.getLogger(__name__)


def write_lcrec(
    folder: Path,
    name: str,
    dataset: Dataset,
    ids: SemanticIds,
    *,
    with_histories: bool,
    forgotten: Collection[str] = (),
) -> None:
    """Write NAME.index.json, .item.json and .item2id; `import` and those projects read them.

    Items go by their number, as text, and `.item2id` says whose number that is. The histories,
    held-out items at their ends, are NAME.inter.json and .user2id.

    Args:
        forgotten: users, by `hash_user`, who are left out.
    """
    users = [n for n, own in enumerate(dataset.user_ids) if hash_user(own) not in forgotten]
    user_ids = [dataset.user_ids[user] for user in users]
    for what, own_ids in (("item", dataset.item_ids), ("user", user_ids)):
        if what == "user" and not with_histories:
            continue
        bad = next((own for own in own_ids if any(c in own for c in "\t\r\n")), None)
        if bad is not None:
            logger.warning(
                "%s is not written: the %s id %r holds a tab or a line break, which its id map "
                "cannot carry",
                *(folder, what, bad),
            )
            return
        write_bytes(folder / f"{name}.{what}2id", _id_map(own_ids).encode())
    numbers = [str(item) for item in range(len(ids))]
    write_index_json(folder / f"{name}.index.json", numbers, ids)
    described = {
        number: {"title": title, "description": ""}
        for number, title in zip(numbers, dataset.titles, strict=True)
    }
    write_json(folder / f"{name}.item.json", described)
    if with_histories:
        histories = dataset.known_histories()
        rows = {str(number): histories[user].tolist() for number, user in enumerate(users)}
        write_json(folder / f"{name}.inter.json", rows)


def _id_map(own_ids: Sequence[str]) -> str:
    return "".join(f"{own}\t{number}\n" for number, own in enumerate(own_ids))
