"""Requests as the command line takes them -> answers of a `Recommender`, one or a file of them."""

import logging
from pathlib import Path
from typing import Any

import orjson

from bbqrec.data import read_histories, write_recommendations
from bbqrec.errors import RequestError
from bbqrec.recommend import Recommendation, Recommender
from bbqrec.storage import read_text

SUFFIXES = (".parquet", ".jsonl")

logger = logging.getLogger(__name__)


def check_request(history: str | None, users: Path | None, out: Path | None) -> None:
    """RequestError unless there is either a history, or users and a file for their answers."""
    if (history is None) == (users is None):
        raise RequestError("give either --history or --users (a file), not both or none")
    if users is None and out is not None:
        raise RequestError("--out goes with --users; the answer to one history is printed")
    if users is None:
        return
    if out is None:
        raise RequestError("--users needs --out FILE.parquet or FILE.jsonl for the answers")
    if out.suffix not in SUFFIXES or out.is_dir():
        raise RequestError(f"--out {out} must be a file whose name ends in .parquet or .jsonl")
    if users.resolve() == out.resolve():
        raise RequestError(f"--out {out} would replace the users; give another file")


def parse_history(text: str) -> list[str]:
    """Item ids of a list with commas or, where it begins with a bracket, of a JSON list."""
    if not text.lstrip().startswith("["):
        return [item_id.strip() for item_id in text.split(",") if item_id.strip()]
    try:
        ids = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"--history begins like a JSON list but is not one: {error}") from None
    if not all(isinstance(i, str | int) and not isinstance(i, bool) for i in ids):
        raise RequestError('--history must be a JSON list of item ids, such as ["1193","661"]')
    return [str(item_id) for item_id in ids]


def read_allowed(path: Path) -> list[str]:
    """The item ids of a text file, one a line."""
    allowed = [item_id for line in read_text(path).splitlines() if (item_id := line.strip())]
    if not allowed:
        raise RequestError(f"{path} names no item; write one item id a line")
    return allowed


def answer_one(
    recommender: Recommender, history: list[str], options: dict[str, Any]
) -> Recommendation:
    """Recommendations after one history; RequestError when all of it is unknown.

    Args:
        options: `k`, `exclude_seen` and `allowed` of `Recommender.recommend`.
    """
    answer = recommender.recommend([history], **options)[0]
    # Bytes of the command line that are no text would end the printing of a result.
    unknown = [i.encode(errors="replace").decode() for i in answer.unknown_items]
    if history and answer.is_fallback:
        raise RequestError(
            f"none of the {len(history)} items in the history is in the catalog "
            f"({', '.join(unknown[:3])}); check how the ids are written, and give ids that hold "
            "commas as a JSON list"
        )
    if unknown:
        logger.warning("not in the catalog, passed over: %s", ", ".join(unknown))
    return answer._replace(unknown_items=unknown)


def answer_many(
    recommender: Recommender, users: Path, out: Path, options: dict[str, Any]
) -> dict[str, int]:
    """Answer a file of users, one row per recommended item; return what there is to count."""
    user_ids, histories = read_histories(users)
    answers = recommender.recommend(histories, **options)
    rows = [
        {"user_id": user_id, "rank": rank, **item._asdict(), "is_fallback": answer.is_fallback}
        for user_id, answer in zip(user_ids, answers, strict=True)
        for rank, item in enumerate(answer.items, start=1)
    ]
    if not rows:
        raise RequestError(
            f"nothing is left to recommend to any of the {len(user_ids)} users: every allowed item "
            "is in their histories; allow more items or give --include-seen"
        )
    write_recommendations(out, rows)
    return {
        "users": len(user_ids),
        "popular_instead": sum(answer.is_fallback for answer in answers),
        "users_without_items": sum(not answer.items for answer in answers),
        "unknown_items_in_histories": sum(len(answer.unknown_items) for answer in answers),
    }
