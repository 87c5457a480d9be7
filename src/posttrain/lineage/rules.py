"""What may enter the store: the kinds of artefact, and the promises their content must keep."""

from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.errors import CheckFailed

KINDS = {
    "data": "rows used for training, with licence, consent and provenance",
    "policy": "the written rules: name, version, text",
    "rubric": "what annotators are asked: name, version, text",
    "constitution": "what a judge is told: name, version, text",
    "template": "the chat contract: hash, versions",
    "suite": "evaluation cases and criteria, frozen",
    "code": "the commit and source hash of the code that ran",
    "environment": "library versions, Python, machine",
    "seed": "the seeds of a run",
    "config": "a resolved recipe or stage configuration",
    "model": "whole weights",
    "adapter": "adapter weights over a model",
    "evaluation": "the results of a suite on a model",
    "verdict": "what the gate said",
    "waiver": "a check passed over in writing: what, by, reason",
    "run": "one run of a recipe",
}

TEXT_KINDS = ("policy", "rubric", "constitution", "template")
"""Kinds whose ``text`` is fixed by ``name`` and ``version``."""

REQUIRED = {
    "data": (
        ("licence", "consent", "source or provenance"),
        "write a card beside the data: <file>.card.yaml with licence, consent, source and provenance",
    ),
    "waiver": (("what", "by", "reason"), "a waiver says what is passed over, by whom and why"),
    "policy": (("name", "version", "text"), "give the policy a name and a version"),
    "rubric": (("name", "version", "text"), "give the rubric a name and a version"),
    "constitution": (("name", "version", "text"), "give the constitution a name and a version"),
}
"""What a kind must say ("a or b": one of them is enough), and how to mend it."""


def check_content(kind: str, content: Mapping[str, Any], recorded: Iterable[Mapping[str, Any]]) -> None:
    """Raise CheckFailed when ``content`` lacks what its kind must say, or changes a text under a version that is already recorded."""
    required, hint = REQUIRED.get(kind, ((), ""))
    missing = [keys for keys in required if not any(str(content.get(key) or "").strip() for key in keys.split(" or "))]
    if missing:
        name = content.get("name") or content.get("path") or "without a name"
        raise CheckFailed(f"{kind} {name}: {', '.join(missing)} not given, so it cannot be recorded or used", hint=hint)
    if kind in TEXT_KINDS and "text" in content:
        for other in recorded:
            if (other.get("name"), other.get("version")) == (content.get("name"), content.get("version")) and "text" in other:
                _check_same_text(kind, content, str(other["text"]))


def _check_same_text(kind: str, content: Mapping[str, Any], recorded: str) -> None:
    text = str(content["text"])
    if text == recorded:
        return
    before, after = recorded.split("\n"), text.split("\n")
    line = next((i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), min(len(before), len(after)))
    was = repr(before[line]) if line < len(before) else "(no such line)"
    now = repr(after[line]) if line < len(after) else "(no such line)"
    raise CheckFailed(
        f"{kind} '{content.get('name')}' version {content.get('version')}: its text changed without a new version; "
        f"first different line is {line + 1}:\n  recorded: {was}\n  now:      {now}",
        hint="give the changed text a new version, or restore the recorded text",
    )
