"""From settings and item tables, or the tables among saved weights, to a model."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from bbqrec.errors import ConfigError
from bbqrec.recommender.config import RecommenderConfig
from bbqrec.recommender.one_pass import OnePassRecommender
from bbqrec.recommender.paper import PaperRecommender
from bbqrec.recommender.tables import ItemTables, directions, needed


def build_recommender(
    config: RecommenderConfig,
    tables: ItemTables,
    similarity_edges: Mapping[str, Float[Tensor, " _"]],
) -> OnePassRecommender | PaperRecommender:
    """A freshly initialized model (from torch's global generator) over these items.

    Args:
        similarity_edges: what `similarity_edges` returned; empty turns the similarity bias off.
    """
    tables = needed(tables, config)
    edges = similarity_edges if config.similarity.enabled else {}
    if config.form == "one_pass" and not (config.use_id or config.use_codes or tables.content):
        raise ConfigError(
            "items would have no vector at all: the catalog has no content vectors, so switch on "
            "use_id or use_codes"
        )
    unit = {
        name: directions(vectors, tables.similarity_present[name])
        for name, vectors in tables.similarity.items()
    }
    form = PaperRecommender if config.form == "paper" else OnePassRecommender
    return form(config, tables._replace(similarity=unit), edges)
