"""Golden conversations: what a contract makes of a fixed set, at string and token level, kept so that a change can be shown.

The record of a contract (``contract.json`` beside every model and adapter, and what ``posttrain contract freeze`` writes) holds its
hashes, template, special tokens and golden renderings; comparing two records names the first token at which they part.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.chat.rendering import PROBE_CALL, PROBE_TOOL
from posttrain.records import Message

SCHEMA = 1
_PARTS = ("template", "tokenizer", "special_tokens", "settings")

_QUESTION = Message("user", "What is 12 * 7?")
_CALL = Message("assistant", "", tool_calls=(PROBE_CALL,))
_RESULT = Message("tool", '{"rows": [1, 2.5, null]}', tool_call_id=PROBE_CALL.id, name=PROBE_CALL.name)


@dataclass(frozen=True, slots=True)
class GoldenConversation:
    """A conversation every contract is asked to render."""

    name: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    add_generation_prompt: bool = False


GOLDEN = (
    GoldenConversation("question", (_QUESTION,), add_generation_prompt=True),
    GoldenConversation("answer", (_QUESTION, Message("assistant", "84"))),
    GoldenConversation("system", (Message("system", "Answer in JSON."), _QUESTION, Message("assistant", '{"answer": 84}'))),
    GoldenConversation(
        "turns",
        (
            _QUESTION,
            Message("assistant", "84"),
            Message("user", "Plus 1,000.50 €?\n\n- exactly\n\tplease"),
            Message("assistant", "1,084.50 €"),
        ),
    ),
    GoldenConversation("unicode", (Message("user", "naïve café 日本語 🙂👩‍👩‍👧 \u00a0x\u200by ﬁ ①"), Message("assistant", "Ω ≈ ½ — “ok”"))),
    GoldenConversation("spaces", (Message("user", "  two  spaces\t\n"), Message("assistant", "x  \n\n"))),
    GoldenConversation("reasoning", (_QUESTION, Message("assistant", "84", reasoning="12 * 7 = 84"))),
    GoldenConversation("tool", (_QUESTION, _CALL, _RESULT, Message("assistant", "Done.")), tools=(PROBE_TOOL,)),
)


def golden_renderings(record_one: Callable[[GoldenConversation], dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per golden conversation: name, and text, ids and tokens, or the reason the template refuses it."""
    return [{"name": conversation.name, **record_one(conversation)} for conversation in GOLDEN]


def describe_difference(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Readable lines: the parts that differ, template diff, special tokens, first differing token. Empty when equal."""
    if recorded.get("hash") == current.get("hash"):
        return []
    lines = [f"recorded {recorded.get('hash')}", f"current  {current.get('hash')}"]
    old_parts, new_parts = recorded.get("parts", {}), current.get("parts", {})
    changed = [part for part in _PARTS if old_parts.get(part) != new_parts.get(part)]
    lines.append("changed: " + (", ".join(changed) or "unknown"))
    lines += _template_lines(str(recorded.get("template", "")), str(current.get("template", "")))
    lines += _special_token_lines(recorded.get("special_tokens", {}), current.get("special_tokens", {}))
    if recorded.get("settings") != current.get("settings"):
        lines.append(f"settings: {recorded.get('settings')} -> {current.get('settings')}")
    lines += _golden_lines(recorded.get("golden", []), current.get("golden", []))
    return lines


def _template_lines(old: str, new: str) -> list[str]:
    if old == new:
        return []
    return list(difflib.unified_diff(old.splitlines(), new.splitlines(), "recorded template", "current template", lineterm="", n=1))


def _special_token_lines(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return [
        f"special token {name}: {old.get(name)!r} -> {new.get(name)!r}" for name in sorted({*old, *new}) if old.get(name) != new.get(name)
    ]


def _golden_lines(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[str]:
    before = {entry["name"]: entry for entry in old}
    differing = [(before[entry["name"]], entry) for entry in new if entry["name"] in before and before[entry["name"]] != entry]
    if not differing:
        return ["the golden conversations still give the same ids; the difference lies elsewhere in the vocabulary or rules"]
    first_old, first_new = differing[0]
    names = ", ".join(entry["name"] for _, entry in differing)
    return [f"golden conversations that differ: {names}", f"first of them, '{first_new['name']}':", *_entry_lines(first_old, first_new)]


def _entry_lines(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    if "ids" not in old or "ids" not in new:
        return [f"  recorded: {old.get('refused', 'rendered')}", f"  current:  {new.get('refused', 'rendered')}"]
    place = first_difference(old["ids"], new["ids"])
    if place is None:
        return [f"  text {old['text']!r}", f"    -> {new['text']!r} (the same ids)"]
    return [
        f"  first differing token: position {place}",
        f"  recorded: {_neighbours(old, place)}",
        f"  current:  {_neighbours(new, place)}",
    ]


def first_difference(old: Sequence[int], new: Sequence[int]) -> int | None:
    """The first position at which two id lists part; None when they are equal."""
    for place, (a, b) in enumerate(zip(old, new, strict=False)):
        if a != b:
            return place
    return None if len(old) == len(new) else min(len(old), len(new))


def _neighbours(entry: Mapping[str, Any], place: int, around: int = 3) -> str:
    shown = []
    for i in range(max(0, place - around), min(len(entry["ids"]), place + around + 1)):
        token = f"{entry['tokens'][i]}({entry['ids'][i]})"
        shown.append(f">>{token}<<" if i == place else token)
    if place >= len(entry["ids"]):
        shown.append(">>end<<")
    return " ".join(shown)
