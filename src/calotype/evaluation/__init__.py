"""Measuring models on pictures they were not trained on."""

from calotype.evaluation.evaluate import evaluate

__all__ = ["evaluate"]
