"""The built-in scorers. Importing this package registers them."""

from posttrain.evaluation.scoring import matching, models, python, refusal, tools, wording

__all__ = ["matching", "models", "python", "refusal", "tools", "wording"]
