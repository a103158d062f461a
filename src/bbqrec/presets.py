"""Named starting points: the shape of the recommender, what it learns and which score ranks."""

from typing import Any, Literal

Preset = Literal["fast", "one_pass", "generate", "paper"]


def lay_preset(values: dict[str, Any], name: Preset) -> dict[str, Any]:
    """`values` with the preset in place of its section `recommender`, of the weights of the two
    scores in `training` and of `ranking.rank_by`."""
    from bbqrec.recommender import RecommenderConfig  # slow to import; the names above are not

    shape = {
        "fast": RecommenderConfig(),
        "one_pass": RecommenderConfig(decoder="transformer", normalize="vocabulary"),
        "generate": RecommenderConfig(decoder="tree"),
        "paper": RecommenderConfig.paper(),
    }[name]
    generates = name in ("generate", "paper")
    weights = {"generative_weight": 1.0, "dense_weight": 0.0} if name == "generate" else {}
    learned = {"generative_weight": 0.2, "dense_weight": 1.0} | weights
    return {
        **values,
        "recommender": shape.model_dump(mode="json"),
        "training": {**values.get("training", {}), **learned},
        "ranking": {
            **values.get("ranking", {}),
            "rank_by": "generative" if generates else "dense",
        },
    }
