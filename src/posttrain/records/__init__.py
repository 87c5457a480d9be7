"""Frozen, versioned types that cross a stage."""

from posttrain.records.checks import FieldError, check_conversation, check_record
from posttrain.records.generation import Generation, GenerationRequest, SamplingSettings
from posttrain.records.judgements import CHOICES, Choice, Comparison, Judgement, Record
from posttrain.records.messages import (
    ROLES,
    UNTRAINED_TURNS,
    Demonstration,
    FeedbackEvent,
    Message,
    PreferencePair,
    StepLabels,
    ToolCall,
    UnpairedLabel,
    VerifiableTask,
)
from posttrain.records.tokens import TokenSequence

__all__ = [
    "CHOICES",
    "ROLES",
    "UNTRAINED_TURNS",
    "Choice",
    "Comparison",
    "Demonstration",
    "FeedbackEvent",
    "FieldError",
    "Generation",
    "GenerationRequest",
    "Judgement",
    "Message",
    "PreferencePair",
    "Record",
    "SamplingSettings",
    "StepLabels",
    "TokenSequence",
    "ToolCall",
    "UnpairedLabel",
    "VerifiableTask",
    "check_conversation",
    "check_record",
]
