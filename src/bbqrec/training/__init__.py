"""The loop, checkpoints, and one recipe per thing that is trained."""

from bbqrec.training.loop import FitResult
from bbqrec.training.schedule import LoopConfig

__all__ = ["FitResult", "LoopConfig"]
