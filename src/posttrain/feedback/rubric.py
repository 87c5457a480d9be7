"""What annotators are asked: ``rubrics/*.yaml``, versioned. Every label names the rubric it was given under."""

from pathlib import Path

from pydantic import Field, model_validator

from posttrain.config import Config, parse, read_yaml

REQUIRED = ("truthfulness", "calibration", "uncertainty")
"""Dimensions without which a rubric rewards what is pleasant over what is true."""


class Dimension(Config):
    """One thing to look at."""

    name: str
    """A word."""
    question: str
    """What the annotator answers."""
    scale: tuple[str, ...] = Field(min_length=2)
    """The answers, worst first."""


class Rubric(Config):
    """A rubric file."""

    name: str = Field(min_length=1)
    """What people call it."""
    version: str = Field(min_length=1)
    """Raised with every change of meaning; labels of two versions are never mixed."""
    question: str = Field(min_length=1)
    """What the choice between two answers is about."""
    tie: str = Field(min_length=1)
    """When to call a tie."""
    dimensions: tuple[Dimension, ...]
    """Asked before the choice; among them truthfulness, calibration and uncertainty."""

    @property
    def label(self) -> str:
        """What stands in every judgement: name and version."""
        return f"{self.name}-{self.version}"

    @model_validator(mode="after")
    def _has_required(self) -> "Rubric":
        names = [one.name for one in self.dimensions]
        missing = [name for name in REQUIRED if name not in names]
        if missing:
            raise ValueError(f"a rubric asks about {', '.join(REQUIRED)}; missing: {', '.join(missing)}")
        if len(set(names)) < len(names):
            raise ValueError("two dimensions have one name")
        return self


def load_rubric(path: str | Path) -> Rubric:
    """Read a rubric file. Raises ConfigError with file, key and value."""
    return parse(Rubric, read_yaml(path), where=str(path))
