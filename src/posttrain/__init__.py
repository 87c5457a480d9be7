"""posttrain: take a start model to a gated assistant, and prove at each step that it got better."""

__version__ = "0.1.0"
