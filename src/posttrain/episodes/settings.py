"""What an episode may do, and what is needed to start one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from posttrain.config import Config
from posttrain.records import Message

if TYPE_CHECKING:
    from posttrain.worlds import Environment


class EpisodeSettings(Config):
    """Limits of the tool loop. The length of a single turn is the sampling's ``max_new_tokens``."""

    max_steps: int = Field(default=6, ge=1, le=1000)
    """Turns the model may write. The last one is for the answer: calls it makes are not run."""
    max_tokens: int = Field(default=1024, ge=1)
    """Tokens after the prompt: what the model writes and what it reads from tools, together. Its context is a limit besides."""
    constrain: bool = False
    """Decode every turn under the tools' schemas: a call is always one that a tool takes, and the last turn is never a call."""
    parallel_calls: bool = True
    """Whether a turn may hold several calls. False: the first is run, the others are answered with an error."""


@dataclass(frozen=True, slots=True)
class EpisodeTask:
    """A conversation to be continued with tools.

    ``environment`` opens what answers the calls; it is asked for when the first call is made (or at the end, for the outcome), in a worker
    thread, and closed when the episode is over. None: the calls are recorded and the episode ends. ``seed`` takes the place of the
    sampling's. ``prompt_ids``: the exact tokens of the prompt, in place of rendering ``messages``.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    environment: "Callable[[], Environment] | None" = None
    seed: int | None = None
    prompt_ids: tuple[int, ...] = ()
