"""The built-in scorers. Importing this package registers them."""

from posttrain.evaluation.scorers import matching, python, refusal, wording

__all__ = ["matching", "python", "refusal", "wording"]
