"""The drawn shop, once per session."""

import polars as pl
import pytest
from catalogs import Shop, write_catalog

from bbqrec.data import draw_shop
from bbqrec.storage import read_json, read_tensors


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    directory = tmp_path_factory.mktemp("shop")
    draw_shop(directory / "source", seed=5, num_items=300, num_users=1)
    items = pl.read_parquet(directory / "source" / "items.parquet")
    images = pl.read_parquet(directory / "source" / "images.parquet")
    catalog = write_catalog(
        directory / "prepared",
        read_json(directory / "source" / "truth.json")["item_ids"],
        (items["title"] + " " + items["description"]).to_list(),
        images["bytes"].to_list(),
    )
    return Shop(catalog, read_tensors(directory / "source" / "truth.safetensors"))
