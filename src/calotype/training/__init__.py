"""Training: objectives, the loop, exact checkpoints and the run folder around them."""

from calotype.training.api import Trained, train
from calotype.training.tuned import tune

__all__ = ["Trained", "train", "tune"]
