"""Answers kept by content: the same model asked the same thing in the same way is not run again."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from posttrain.config import content_hash
from posttrain.config.files import write_json
from posttrain.records import CallRecord, Generation, GenerationRequest, Message, ToolCall

EPISODE_FIELDS = ("transcript", "calls", "outcome")
"""What an answer with tools holds besides its text."""


def request_hash(identity: Mapping[str, Any], request: GenerationRequest, episode: Mapping[str, Any] | None = None) -> str:
    """Hash over the generator's identity (model, contract, dtype, version), the conversation, tools and sampling.

    ``episode``: what else an answer with tools depends on (limits, the world and its version).
    """
    asked = asdict(request)
    del asked["id"]
    for message in asked["messages"]:
        del message["untrained"]
    return content_hash({"generator": identity, "request": asked, **({"episode": episode} if episode else {})})


def episode_rows(generation: Generation) -> dict[str, Any]:
    """Transcript, calls and outcome as JSON; empty for an answer without tools."""
    rows = {name: value for name, value in asdict(generation).items() if name in EPISODE_FIELDS and value}
    if "transcript" in rows:
        rows["transcript"] = [{key: value for key, value in message.items() if value} for message in rows["transcript"]]
    return rows


class GenerationCache:
    """A folder of answers, one small file each. Seconds are not kept: a latency is measured or it is not known."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, key: str) -> Generation | None:
        """The answer kept under ``key``, with seconds 0; a damaged file counts as absent."""
        if self.folder is None:
            return None
        try:
            data = json.loads(self._path(key).read_text(encoding="utf-8"))
            counts = data["num_prompt_tokens"], data["num_completion_tokens"]
            return Generation(
                data["text"],
                data["finish_reason"],
                *counts,
                0.0,
                token_ids=tuple(data["token_ids"]),
                transcript=tuple(_message(row) for row in data.get("transcript", ())),
                calls=tuple(CallRecord(**row) for row in data.get("calls", ())),
                outcome=data.get("outcome", {}),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, generation: Generation) -> None:
        """Keep an answer."""
        if self.folder is not None:
            fields = ("text", "finish_reason", "num_prompt_tokens", "num_completion_tokens", "token_ids")
            write_json(self._path(key), {field: getattr(generation, field) for field in fields} | episode_rows(generation))

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.json"


def _message(row: Mapping[str, Any]) -> Message:
    calls = tuple(ToolCall(**call) for call in row.get("tool_calls", ()))
    return Message(**{**row, "tool_calls": calls})
