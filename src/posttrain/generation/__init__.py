"""One protocol to ask a model: the local engine and OpenAI-compatible endpoints."""

from posttrain.generation.batch import LogitsHook
from posttrain.generation.endpoint import EndpointGenerator
from posttrain.generation.local import LocalGenerator
from posttrain.generation.prompt_file import answer_prompts, read_prompts
from posttrain.generation.protocol import Generator

__all__ = ["EndpointGenerator", "Generator", "LocalGenerator", "LogitsHook", "answer_prompts", "read_prompts"]
