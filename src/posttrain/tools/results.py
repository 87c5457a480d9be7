"""What a tool returned, as text of bounded length for the model; never an exception."""

import inspect
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from posttrain.records import CallStatus, ToolResult

MAX_ERROR_CHARS = 1000
_SECRET_NAME = re.compile(r"(?i)(^|_)(key|apikey|token|secret|password|passwd|pwd|credentials?)(_|$)")
_SECRET_TEXT = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),
    re.compile(r"\b(sk|pk|rk|ghp|gho|ghs|hf|xox[abp]|glpat|AKIA|ASIA|AIza)[-_]?[A-Za-z0-9_-]{12,}"),
    re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{8,}"),
    re.compile(r"(?i)(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(
        r"(?i)(?<![a-z])((?:[a-z]{1,20}[_-]){0,3}(?:api[_-]?key|access[_-]?key|token|secret|password|passwd|pwd)[\"']?\s*[:=]\s*)[\"']?[^\s\"',;&]{3,}[\"']?"
    ),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """Outcome of running a tool. ``settled``: known to be done or known not to be done; False when an action may have happened half way."""

    content: str
    status: CallStatus = "ok"
    is_error: bool = False
    settled: bool = True

    def result(self, seconds: float) -> ToolResult:
        """As the record that leaves the toolbox."""
        return ToolResult(self.content, self.is_error, self.status, seconds)


def render(value: Any, name: str, max_chars: int) -> Answer:
    """A returned value as text: strings as they are, all else as JSON. "too_large" keeps the beginning, "not_json" names the type."""
    if isinstance(value, str):
        text = value
    elif inspect.isgenerator(value) or inspect.isasyncgen(value):
        return Answer(f"{name} returned a generator, which is not JSON.", "not_json", is_error=True)
    else:
        try:
            text = json.dumps(to_jsonable_python(value, inf_nan_mode="constants"), ensure_ascii=False, allow_nan=False)
        except (PydanticSerializationError, TypeError, ValueError, RecursionError):
            return Answer(f"{name} returned a value of type {type(value).__name__}, which is not JSON.", "not_json", is_error=True)
    text = writable(text)
    if len(text) <= max_chars:
        return Answer(text)
    note = f"\n[cut here: {max_chars:,} of {len(text):,} characters are shown; ask for less]"
    return Answer(text[:max_chars] + note, "too_large")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` without what looks like a credential, without ``secrets``, and without values of environment variables named like one."""
    known = [value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= 6]
    for value in sorted({*secrets, *known} - {""}, key=len, reverse=True):
        text = text.replace(value, "(hidden)")
    for pattern in _SECRET_TEXT:
        text = pattern.sub(lambda match: (match[1] if match.re is _SECRET_TEXT[-1] else "") + "(hidden)", text)
    return text


def writable(text: str) -> str:
    """``text`` with lone surrogates, which UTF-8 cannot write, as ``?``."""
    return text.encode("utf-8", "replace").decode("utf-8")


def error_text(text: str, secrets: Iterable[str] = ()) -> str:
    """An error as one bounded, redacted text."""
    clean = redact(writable(text[: 4 * MAX_ERROR_CHARS]), secrets)
    return clean if len(clean) <= MAX_ERROR_CHARS else clean[: MAX_ERROR_CHARS - 4] + " ..."
