"""Requests as the command line takes them -> answers of a `Recommender`, one or a file of them."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from bbqrec.data import RECOMMENDATION_SUFFIXES, read_histories
from bbqrec.errors import RequestError
from bbqrec.recommend import Recommendation, Recommender
from bbqrec.storage import read_text

STDOUT = Path("-")

logger = logging.getLogger(__name__)


def check_request(
    history: str | None, user: str | None, users: Path | None, all_users: bool, out: Path | None
) -> None:
    """RequestError unless one thing is asked for, and many answers have somewhere to go."""
    asked = {
        "--history": history is not None,
        "--user": user is not None,
        "--users": users is not None,
        "--all-users": all_users,
    }
    given = [name for name, is_given in asked.items() if is_given]
    if len(given) != 1:
        raise RequestError(
            f"give one of --history, --user, --users and --all-users, not "
            f"{' and '.join(given) or 'none'}"
        )
    if given[0] in ("--history", "--user"):
        if out is not None:
            raise RequestError("--out goes with --users or --all-users; one answer is printed")
        return
    if out is None:
        raise RequestError(
            f"{given[0]} needs --out FILE.parquet, .csv or .jsonl for the answers, or --out -"
        )
    if out != STDOUT and (out.suffix not in RECOMMENDATION_SUFFIXES or out.is_dir()):
        raise RequestError(
            f"--out {out} must be a file whose name ends in .parquet, .csv or .jsonl, or - for "
            "JSON lines on stdout"
        )
    if users is not None and users.resolve() == out.resolve():
        raise RequestError(f"--out {out} would replace the users; give another file")


def history_of(recommender: Recommender, user_id: str) -> list[str]:
    """All that the run knows of one of its users; RequestError for somebody else."""
    histories = recommender.histories()
    if not histories:
        raise RequestError("this model was saved without users; give --history")
    if user_id not in histories:
        raise RequestError(
            f"the run has no user {user_id!r} among its {len(histories)} (such as "
            f"{', '.join(map(repr, recommender.dataset.user_ids[:3]))}); for somebody new give "
            "--history"
        )
    return histories[user_id]


def histories_of(recommender: Recommender, users: Path | None) -> list[tuple[str, list[str]]]:
    """(user id, history): of a file, read with the run's own names of columns, or of the run."""
    if users is None:
        return list(recommender.histories().items())
    options = recommender.dataset.info["options"]
    user_ids, histories = read_histories(
        users, columns=options["columns"], time_format=options["time_format"]
    )
    return list(zip(user_ids, histories, strict=True))


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
    if answer.num_recommendable < options["k"]:
        logger.warning(
            "%d items were asked for, but only %d may be recommended here",
            options["k"],
            answer.num_recommendable,
        )
    return answer._replace(unknown_items=unknown)


def answer_many(
    recommender: Recommender, histories: Sequence[tuple[str, list[str]]], options: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """One row per user and recommended item, and what there is to count."""
    answers = recommender.recommend([history for _, history in histories], **options)
    rows = [
        {"user_id": user_id, "rank": rank, **item._asdict(), "is_fallback": answer.is_fallback}
        for (user_id, _), answer in zip(histories, answers, strict=True)
        for rank, item in enumerate(answer.items, start=1)
    ]
    if not rows:
        raise RequestError(
            f"nothing is left to recommend to any of the {len(histories)} users: every allowed "
            "item is in their histories; allow more items or give --include-seen"
        )
    return rows, {
        "users": len(histories),
        "popular_instead": sum(answer.is_fallback for answer in answers),
        "users_without_items": sum(not answer.items for answer in answers),
        "users_with_fewer_items": sum(a.num_recommendable < options["k"] for a in answers),
        "unknown_items_in_histories": sum(len(answer.unknown_items) for answer in answers),
    }
