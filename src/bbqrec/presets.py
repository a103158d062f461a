"""Named starting points: the shape of the recommender and which of its scores ranks."""

from typing import Any, Literal

Preset = Literal["fast", "one_pass", "paper"]


def lay_preset(values: dict[str, Any], name: Preset) -> dict[str, Any]:
    """`values` with the preset in place of its section `recommender` and of `ranking.rank_by`."""
    from bbqrec.recommender import RecommenderConfig  # slow to import; the names above are not

    shape = {
        "fast": RecommenderConfig(),
        "one_pass": RecommenderConfig(decoder="transformer", normalize="vocabulary"),
        "paper": RecommenderConfig.paper(),
    }[name]
    rank_by = "generative" if shape.form == "paper" else "dense"
    ranking = {**values.get("ranking", {}), "rank_by": rank_by}
    return {**values, "recommender": shape.model_dump(mode="json"), "ranking": ranking}
