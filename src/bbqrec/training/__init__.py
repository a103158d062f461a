"""The loop, checkpoints, and one recipe per thing that is trained."""

from bbqrec.training.loop import FitResult, LoopConfig

__all__ = ["FitResult", "LoopConfig"]
