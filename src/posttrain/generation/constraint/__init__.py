"""Answers that always match: JSON Schema, regular expression, Lark grammar, tool calls; enforced token by token with llguidance."""

from posttrain.generation.constraint.build import build_constraint
from posttrain.generation.constraint.rows import GrammarConstraint
from posttrain.generation.constraint.schema import check_schema

__all__ = ["GrammarConstraint", "build_constraint", "check_schema"]
