"""The built-in scorers. Importing this package registers them."""

from posttrain.evaluation.scoring import matching, models, python, refusal, wording

__all__ = ["matching", "models", "python", "refusal", "wording"]
