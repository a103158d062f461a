"""Multi-modal generative sequential recommendation with behavior-bound semantic IDs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bbqrec.recommend import Recommendation, Recommender
    from bbqrec.semantic_ids import SemanticIds

__version__ = "0.1.0"
__all__ = ["Recommendation", "Recommender", "SemanticIds"]


def __getattr__(name: str) -> Any:
    """Load the public classes on first use, so that `bbqrec --help` does not wait for torch."""
    if name in ("Recommendation", "Recommender"):
        from bbqrec import recommend

        return getattr(recommend, name)
    if name == "SemanticIds":
        from bbqrec.semantic_ids import SemanticIds

        return SemanticIds
    raise AttributeError(f"module 'bbqrec' has no attribute {name!r}")
