"""One protocol to ask a model: the local engine and OpenAI-compatible endpoints."""

from posttrain.generation.batch import LogitsHook
from posttrain.generation.local import LocalGenerator
from posttrain.generation.protocol import Generator

__all__ = ["Generator", "LocalGenerator", "LogitsHook"]
