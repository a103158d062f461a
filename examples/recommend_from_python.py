"""Draw a small shop, run every stage with tiny settings, and recommend: under a minute on a CPU."""

import logging
import tempfile
from pathlib import Path

from bbqrec import Recommender
from bbqrec.bundle import RunFolder
from bbqrec.data import draw_shop
from bbqrec.pipeline import run_stages
from bbqrec.run_config import RunConfig

logging.basicConfig(level=logging.INFO, format="%(message)s")

with tempfile.TemporaryDirectory() as folder:
    shop, run = Path(folder) / "shop", RunFolder(Path(folder) / "run")
    shop.mkdir()
    draw_shop(shop, seed=0, num_items=150, num_users=400)
    config = RunConfig.parse(
        {
            "tokenizer": {"num_levels": 3, "codebook_size": 16, "epochs": 6, "batch_size": 64},
            "recommender": {"d_model": 32, "d_ff": 64, "max_history": 20, "user_start": "random"},
            "training": {"epochs": 6, "learning_rate": 0.003},
        }
    )
    run_stages(run, config, source=shop, until="train")

    recommender = Recommender.from_pretrained(run.directory)
    someone = recommender.dataset.test.histories.row(0)
    history = [recommender.dataset.item_ids[item] for item in someone]
    answer = recommender.recommend([history], k=5)[0]
    print("after", history[-3:])
    for item in answer.items:
        print(f"  {item.title}  ({item.log_probability:.2f})")
