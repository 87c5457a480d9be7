"""Two answers side by side and what people or judges said about them: the raw material of preference pairs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from posttrain.records.messages import (
    Demonstration,
    FeedbackEvent,
    Message,
    PreferencePair,
    PromptOnly,
    StepLabels,
    UnpairedLabel,
    VerifiableTask,
)

Choice = Literal["a", "b", "tie"]
CHOICES: tuple[Choice, ...] = ("a", "b", "tie")
"""What a judgement may say. An annotator who did not answer gives no judgement: an abstention is never a tie."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One annotator's choice between the two answers of a comparison, under one version of the rubric.

    ``strength``: how much better, 0 or more, on the scale the rubric gives; None where nobody asked. ``first_shown``: the side the
    annotator saw first (None: not recorded). ``dimensions``: the rubric's own questions and their answers. ``created``: ISO 8601 time.
    """

    annotator: str
    choice: Choice
    rubric: str
    strength: float | None = None
    first_shown: Literal["a", "b"] | None = None
    dimensions: Mapping[str, float | str] = field(default_factory=dict)
    created: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt, two answers, the judgements so far. ``gold`` is the known right choice of a gold task.

    An answer may be empty text (models do answer nothing) and both may be equal; neither becomes a training pair.
    """

    prompt: tuple[Message, ...]
    a: tuple[Message, ...]
    b: tuple[Message, ...]
    judgements: tuple[Judgement, ...] = ()
    gold: Choice | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    id: str = ""
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


Record = Demonstration | PreferencePair | UnpairedLabel | StepLabels | VerifiableTask | FeedbackEvent | Comparison | PromptOnly
"""What a reader gives and a writer takes."""
