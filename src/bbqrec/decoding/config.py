"""Settings of ranking: which score decides, and how hard the search looks."""

from typing import Literal

from pydantic import Field

from bbqrec.config import Config
from bbqrec.precision import Precision

RankBy = Literal["generative", "dense", "both"]


class RankingConfig(Config):
    """Rank by the dense score, by the generated semantic ID, or by both together."""

    rank_by: RankBy = "dense"
    """Which score orders items: comparing with every item, writing codes, or both."""
    beam_width: int = Field(50, ge=1)
    """Prefixes kept per level (`generative`), more if more items are asked for; where all items are
    scored (see `exhaustive`) there is nothing to keep."""
    exhaustive: bool = False
    """Score every item exactly instead of searching (`generative`). Without it this is done only
    where it is the faster way: where few items may be found, or of a tree that knows neighbors or
    in a small catalog."""
    num_candidates: int = Field(100, ge=1)
    """How many items the dense score hands to `both`."""
    generative_weight: float = Field(0.2, ge=0)
    """What the generative log-probability counts beside the dense one in `both`."""
    new_item_boost: float = Field(0.0, ge=-100, le=100)
    """Added to the dense logit of items without training interactions (`dense`, `both`). At 0 each
    is shown where it is likely, which is seldom; 1.5 shows them about four times as often."""
    batch_size: int = Field(256, ge=1)
    """Histories ranked at once; a limit of memory, not a setting of the result."""
    precision: Precision = "fp32"
    """bf16: matrix products inside the model; "auto" where the machine multiplies bf16 itself."""
