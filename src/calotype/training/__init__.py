"""Training: objectives, the loop, exact checkpoints and the run folder around them."""

from calotype.training.api import Trained, train

__all__ = ["Trained", "train"]
