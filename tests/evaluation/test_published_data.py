"""On real data the baselines reach the numbers known for them under this protocol."""

from pathlib import Path

import pytest

from bbqrec.data import PrepareConfig, prepare
from bbqrec.evaluation import quick_metrics
from bbqrec.recommender import ItemKnnConfig, fit_item_knn, fit_popularity


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore")  # what the source's events look like is not tested here
def test_baselines_on_beauty_with_history_items_removed(real_data: Path, tmp_path: Path) -> None:
    data = prepare(real_data / "amazon2014_beauty", tmp_path, PrepareConfig())

    popularity = quick_metrics(fit_popularity(data), data.test, exclude_seen=True)
    neighbors = quick_metrics(fit_item_knn(data, ItemKnnConfig()), data.test, exclude_seen=True)

    assert popularity["recall@10"] == pytest.approx(0.0115, abs=2e-4)
    assert popularity["ndcg@10"] == pytest.approx(0.0055, abs=2e-4)
    assert neighbors["ndcg@10"] > 0.0448
    assert neighbors["recall@10"] > 0.0715
