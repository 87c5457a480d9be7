"""The built-in scorers. Importing this package registers them."""

from posttrain.evaluation.scoring import matching, python, refusal, wording

__all__ = ["matching", "python", "refusal", "wording"]
