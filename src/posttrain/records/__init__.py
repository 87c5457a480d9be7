"""Frozen, versioned types that cross a stage."""

from posttrain.records.generation import Generation, GenerationRequest, SamplingSettings
from posttrain.records.messages import (
    ROLES,
    Demonstration,
    FeedbackEvent,
    Message,
    PreferencePair,
    Record,
    StepLabels,
    ToolCall,
    UnpairedLabel,
    VerifiableTask,
)
from posttrain.records.tokens import TokenSequence

__all__ = [
    "ROLES",
    "Demonstration",
    "FeedbackEvent",
    "Generation",
    "GenerationRequest",
    "Message",
    "PreferencePair",
    "Record",
    "SamplingSettings",
    "StepLabels",
    "TokenSequence",
    "ToolCall",
    "UnpairedLabel",
    "VerifiableTask",
]
