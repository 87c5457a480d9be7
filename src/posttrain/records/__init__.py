"""Frozen, versioned types that cross a stage."""

from posttrain.records.checks import FieldError, check_conversation, check_record
from posttrain.records.generation import Constraint, Generation, GenerationRequest, SamplingSettings
from posttrain.records.judgements import CHOICES, Choice, Comparison, Judgement, Record
from posttrain.records.messages import (
    ROLES,
    Demonstration,
    FeedbackEvent,
    Message,
    PreferencePair,
    PromptOnly,
    StepLabels,
    ToolCall,
    UnpairedLabel,
    VerifiableTask,
)
from posttrain.records.tokens import TokenSequence
from posttrain.records.tools import CallRecord, CallStatus, Episode, ToolResult

__all__ = [
    "CHOICES",
    "ROLES",
    "CallRecord",
    "CallStatus",
    "Choice",
    "Comparison",
    "Constraint",
    "Demonstration",
    "Episode",
    "FeedbackEvent",
    "FieldError",
    "Generation",
    "GenerationRequest",
    "Judgement",
    "Message",
    "PreferencePair",
    "PromptOnly",
    "Record",
    "SamplingSettings",
    "StepLabels",
    "TokenSequence",
    "ToolCall",
    "ToolResult",
    "UnpairedLabel",
    "VerifiableTask",
    "check_conversation",
    "check_record",
]
