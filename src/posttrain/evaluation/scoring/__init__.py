"""The built-in scorers. Importing this package registers them."""

from posttrain.evaluation.scoring import grounding, matching, models, python, refusal, tools, wording, world

__all__ = ["grounding", "matching", "models", "python", "refusal", "tools", "wording", "world"]
