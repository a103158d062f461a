"""The settings of a run: one section per stage."""

from pydantic import Field, model_validator

from bbqrec.config import Config
from bbqrec.data import PrepareConfig
from bbqrec.decoding import RankBy, RankingConfig
from bbqrec.evaluation import EvaluationConfig
from bbqrec.features import ModalityConfig
from bbqrec.recommender import RecommenderConfig
from bbqrec.tokenizer import TokenizerConfig
from bbqrec.training.recommender import TrainingConfig, UpdateConfig


class RunConfig(Config):
    """Everything that changes a result, one section per stage."""

    seed: int = Field(0, ge=0)
    """Of everything random: start of weights, order of batches, draws."""
    prepare: PrepareConfig = PrepareConfig()
    encode: dict[str, ModalityConfig] = Field(
        default_factory=dict,
        examples=[
            {
                "text": {"encoder": "lexical", "columns": ["title", "description"]},
                "image": {"encoder": "openai/clip-vit-base-patch32"},
                "audio": {"encoder": "vectors", "path": "vectors/audio.npy"},
            }
        ],
    )
    """One section per modality; empty encodes what the data hold with the local encoders."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    recommender: RecommenderConfig = RecommenderConfig()
    training: TrainingConfig = TrainingConfig()
    update: UpdateConfig = UpdateConfig()
    ranking: RankingConfig = RankingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    semantic_ids: str | None = None
    """Semantic IDs made elsewhere (semantic_ids.parquet or .index.json), not to be learned here."""
    item_vectors: str | None = None
    """Vectors of items made elsewhere (as `encode` reads them), `recommender.d_model` numbers each,
    which the items' own vectors begin as; what the file lacks begins anywhere."""
    compare: tuple[RankBy, ...] = ()
    """Further ways of ranking (see `ranking.rank_by`) to evaluate beside the chosen one."""

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        if self.recommender.form == "paper" and {self.ranking.rank_by, *self.compare} != {
            "generative"
        }:
            raise ValueError(
                'recommender.form "paper" only generates; set ranking.rank_by = "generative"'
            )
        if self.recommender.form != "paper":
            self._check_what_ranks_is_learned()
        if self.item_vectors and (self.recommender.form == "paper" or not self.recommender.use_id):
            raise ValueError(
                "item_vectors says where items' own vectors begin, and this model has none; set "
                'recommender.form = "one_pass" and recommender.use_id = true'
            )
        source = self.recommender.similarity.source
        learned = set() if self.semantic_ids else {"quantized"}
        if learned and self.tokenizer.method == "bbqrec":
            learned.add("aligned")
        if source in ("aligned", "quantized") and source not in learned:
            raise ValueError(
                f'recommender.similarity.source "{source}" needs vectors that this tokenizer does '
                'not learn; use "features" or "codes"'
            )
        return self

    def _check_what_ranks_is_learned(self) -> None:
        needed = {
            "dense": ("dense_weight",),
            "generative": ("generative_weight",),
            "both": ("dense_weight", "generative_weight"),
        }
        for ranks_by in (self.ranking.rank_by, *self.compare):
            for name in needed[ranks_by]:
                if getattr(self.training, name) == 0:
                    raise ValueError(
                        f'ranking by "{ranks_by}" needs a score that training.{name} = 0 leaves '
                        "unlearned; give it a weight or rank by another"
                    )
