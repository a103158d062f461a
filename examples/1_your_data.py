"""1. Your own data: one table in, a trained recommender out.

    python examples/1_your_data.py                        # a small shop is drawn to begin with
    python examples/1_your_data.py shop.csv runs/shop     # yours, with the usual settings

On the command line this is `bbqrec run --data shop.csv --out runs/shop`.
"""

import csv
import logging
import sys
from pathlib import Path

from bbqrec import Recommender
from bbqrec.bundle import RunFolder
from bbqrec.pipeline import run_stages
from bbqrec.run_config import RunConfig

# Small enough for a minute on one core; leave them out for data of your own.
SMALL = {
    "prepare": {"min_user": 3, "min_item": 2},
    "tokenizer": {"num_levels": 3, "codebook_size": 16, "epochs": 10, "batch_size": 64},
    "recommender": {"d_model": 32, "d_ff": 64, "max_history": 20, "user_start": "random"},
    "training": {"epochs": 16, "learning_rate": 0.003},
}


def draw_table(path: Path, num_users: int) -> None:
    """A shop in which people stay with one color: who bought what, and when."""
    colors, things = (
        ["red", "blue", "green", "black", "white"],
        ["mug", "lamp", "bag", "vase", "plate", "teapot"],
    )
    items = [(f"{color}-{thing}-{size}", f"{size} {color} {thing}")
             for color in colors for thing in things for size in ("small", "large")]  # fmt: skip
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["user_id", "item_id", "timestamp", "title"])
        for user in range(num_users):
            liked = [item for item in items if colors[user % len(colors)] in item[0]]
            for event in range(6):
                item_id, title = liked[(user // 5 * 5 + event * 5) % len(liked)]
                table.writerow([f"user-{user}", item_id, 1_700_000_000 + 60 * event, title])


def main(data: Path | None, run: Path, num_users: int = 400) -> None:
    settings = {}
    if data is None:
        run.mkdir(parents=True, exist_ok=True)
        data, settings = run / "shop.csv", SMALL
        draw_table(data, num_users)

    # Every stage writes a folder of its own in `run`; what is finished already is kept.
    config = RunConfig.parse(settings)
    run_stages(RunFolder(run), config, source=data, until="report")

    recommender = Recommender.from_pretrained(run)
    user_id, history = next(iter(recommender.histories().items()))
    answer = recommender.recommend([history], k=5)[0]
    print(f"\n{user_id} had {', '.join(history)}")
    for item in answer.items:
        print(f"  {item.title}  (log-probability {item.log_probability:.2f})")
    print(f"\nthe report: {run / 'report.html'}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = [Path(argument) for argument in sys.argv[1:]]
    main(given[0] if len(given) > 1 else None, given[-1] if given else Path("runs/walk"))
