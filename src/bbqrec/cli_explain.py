"""The command that asks a finished run why."""

from typing import Annotated

import typer
from rich.console import Console

from bbqrec.cli_options import Device, Json, Quiet, RunArgument, print_json
from bbqrec.errors import RequestError
from bbqrec.terminal import session

commands = typer.Typer()


@commands.command()
def explain(
    run: RunArgument,
    user: Annotated[
        str | None,
        typer.Option("--user", help="A user of the run; what was held out is history here."),
    ] = None,
    history: Annotated[
        str | None,
        typer.Option("--history", help="Item ids, oldest first, as `bbqrec recommend` takes them."),
    ] = None,
    item: Annotated[
        list[str] | None,
        typer.Option("--item", help="Explain this item (repeatable) in place of the best ones."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many of the best items.")] = 1,
    exclude_seen: Annotated[
        bool,
        typer.Option(
            "--exclude-seen/--include-seen", help="Leave out, or allow, items of the history."
        ),
    ] = True,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Say why an item is recommended: what its score is made of, and what each event counts.

    The best item of a user: `bbqrec explain runs/shop --user U17`

    Why not this one: `bbqrec explain runs/shop --user U17 --item A17`

    After a history, for programs: `bbqrec explain runs/shop --history A17,B42 -k 3 --json`
    """
    with session(quiet):
        from bbqrec.answers import answer_one, history_of, parse_history
        from bbqrec.bundle import RunFolder
        from bbqrec.explain import Explainer, explanation_table
        from bbqrec.pipeline import choose_device
        from bbqrec.recommend import Recommender

        if (user is None) == (history is None):
            raise RequestError("give either --user or --history")
        folder = RunFolder(run)
        recommender = Recommender.load(folder, device=choose_device(device))
        known = history_of(recommender, user) if user is not None else parse_history(history or "")
        if not item:
            options = {"k": k, "exclude_seen": exclude_seen}
            answer = answer_one(recommender, known, options)
            item = [recommended.item_id for recommended in answer.items]
        explanations = Explainer.of_run(folder, recommender).explain(known, item)
        titles = [recommender.dataset.titles[recommender.item_of_id[i]] for i in item]
        rows = list(zip(item, titles, explanations, strict=True))
        if as_json:
            print_json([{"item_id": i, "title": t, "explanation": e} for i, t, e in rows])
            return
        for item_id, title, explanation in rows:
            Console().print(explanation_table(item_id, title, explanation), "")
