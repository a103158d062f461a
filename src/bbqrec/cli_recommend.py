"""The command that asks a finished run: one user, one history, or many."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bbqrec.cli_options import Device, Json, Quiet, RunArgument, print_json
from bbqrec.errors import ConfigError
from bbqrec.terminal import say, session

commands = typer.Typer()


@commands.command()
def recommend(
    run: RunArgument,
    history: Annotated[
        str | None,
        typer.Option(
            "--history", help='Item ids, oldest first: A17,B42 or, for ids with commas, ["a,b"].'
        ),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", help="A user of the run; what was held out is history here."),
    ] = None,
    users: Annotated[
        Path | None,
        typer.Option(
            "--users",
            help="Many users: JSON lines of user_id and history, or a CSV or Parquet table with "
            "one row per event and columns named user_id, item_id and timestamp, or as in the "
            "run's own data.",
        ),
    ] = None,
    all_users: Annotated[
        bool, typer.Option("--all-users", help="Every user of the run, as with --user.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Where the answers to many go: .parquet, .csv or .jsonl, or - for JSON lines on "
            "stdout.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many items, at most the catalog's.")] = 10,
    exclude_seen: Annotated[
        bool,
        typer.Option(
            "--exclude-seen/--include-seen", help="Leave out, or allow, items of the history."
        ),
    ] = True,
    allow: Annotated[
        Path | None,
        typer.Option("--allow", help="A text file of the allowed item ids, one a line."),
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Recommend items for a user, a history, or many of them, with titles and log-probabilities.

    A user of the run: `bbqrec recommend runs/shop --user U17`

    One history: `bbqrec recommend runs/shop --history A17,B42 -k 5`

    Many: `bbqrec recommend runs/shop --users users.csv --out answers.parquet`

    All: `bbqrec recommend runs/shop --all-users --out answers.csv`

    Users of the file without a known item get popular items, marked `is_fallback`.
    """
    with session(quiet):
        from bbqrec.answers import STDOUT, check_request, history_of, parse_history, read_allowed
        from bbqrec.pipeline import choose_device
        from bbqrec.recommend import Recommender

        check_request(history, user, users, all_users, out)
        if out == STDOUT and as_json:
            raise ConfigError("--json and --out - would both print; leave one of them out")
        recommender = Recommender.from_pretrained(run, device=choose_device(device))
        allowed = None if allow is None else read_allowed(allow)
        options: dict[str, Any] = {"k": k, "exclude_seen": exclude_seen, "allowed": allowed}
        if out is not None:
            _recommend_many(recommender, users, out, options, as_json)
        elif user is not None:
            _recommend_one(recommender, history_of(recommender, user), options, as_json)
        elif history is not None:
            _recommend_one(recommender, parse_history(history), options, as_json)


def _recommend_one(
    recommender: Any, history: list[str], options: dict[str, Any], as_json: bool
) -> None:
    from bbqrec.answers import answer_one
    from bbqrec.summary import recommendation_table

    answer = answer_one(recommender, history, options)
    if as_json:
        items = [item._asdict() for item in answer.items]
        print_json({**answer._asdict(), "items": items})
    else:
        Console().print(recommendation_table(recommender, history, answer))


def _recommend_many(
    recommender: Any, users: Path | None, out: Path, options: dict[str, Any], as_json: bool
) -> None:
    from bbqrec.answers import STDOUT, answer_many, histories_of
    from bbqrec.data import recommendations_as_jsonl, write_recommendations

    rows, counts = answer_many(recommender, histories_of(recommender, users), options)
    if out == STDOUT:
        sys.stdout.write(recommendations_as_jsonl(rows))
        return
    write_recommendations(out, rows)
    if as_json:
        print_json({**counts, "out": str(out)})
        return
    say(
        f"{counts['users']} users answered, {counts['popular_instead']} of them with popular items "
        f"(no known item in the history); {counts['unknown_items_in_histories']} unknown items in "
        f"histories passed over; written to {out}"
    )
    if fewer := counts["users_with_fewer_items"]:
        say(
            f"{fewer} users got fewer than {options['k']} items: no more may be recommended to them"
        )
