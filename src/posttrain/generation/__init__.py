"""One protocol to ask a model: the local engine and OpenAI-compatible endpoints."""

from posttrain.generation.endpoint import EndpointGenerator
from posttrain.generation.local import LocalGenerator
from posttrain.generation.prompt_file import answer_prompts, read_prompts
from posttrain.generation.protocol import Generator, RowConstraint, Session, SessionStatistics, Ticket, samples

__all__ = [
    "EndpointGenerator",
    "Generator",
    "LocalGenerator",
    "RowConstraint",
    "Session",
    "SessionStatistics",
    "Ticket",
    "answer_prompts",
    "read_prompts",
    "samples",
]
