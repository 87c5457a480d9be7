"""What a page shows of an answer with tools: what was said, each call, what came back."""

import json
from typing import Any

from posttrain.episodes import call_text
from posttrain.evaluation import SampleResult

TEXT_LIMIT = 4_000
"""Characters shown of one turn."""


def transcript_view(sample: SampleResult) -> dict[str, Any]:
    """``turns`` (kind, label, text; the final answer left out, the page shows it apart) and ``outcome`` as text. Nothing is escaped."""
    failed = {call["id"]: call["status"] for call in sample.calls if call["is_error"]}
    turns: list[dict[str, str]] = []
    messages = list(sample.transcript)
    if messages and messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"):
        messages.pop()
    for message in messages:
        text, role = str(message.get("content", "")), str(message["role"])
        if role == "tool":
            status = failed.get(message.get("tool_call_id"))
            label = " · ".join(part for part in (message.get("name"), status) if part) or "result"
            turns.append(_turn("failed" if status else "result", label, text))
            continue
        if text:
            turns.append(_turn("failed" if role == "user" else "said", "to the model" if role == "user" else "said", text))
        turns += [_turn("call", "call", call_text(call["name"], call["arguments"])) for call in message.get("tool_calls", ())]
    return {"turns": turns, "outcome": json.dumps(dict(sample.outcome), indent=1, ensure_ascii=False) if sample.outcome else ""}


def _turn(kind: str, label: str, text: str) -> dict[str, str]:
    shown = text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]} … {len(text) - TEXT_LIMIT} more characters"
    return {"kind": kind, "label": label, "text": shown}
