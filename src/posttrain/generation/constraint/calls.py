"""The grammar of a turn with tool calls, as the template writes them, in llguidance's Lark."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.chat import CallFormat
from posttrain.errors import ConfigError, suggest
from posttrain.generation.constraint.schema import check_schema

Tools = Sequence[Mapping[str, Any]]
_CLOSABLE = frozenset(("type", "properties", "required", "title", "description", "default", "examples", "example", "nullable"))


def call_parameters(tools: Tools) -> dict[str, dict[str, Any]]:
    """Name of each tool and the schema of its arguments. Raises ConfigError for names and schemas that cannot be enforced.

    An object that lists properties and does not speak of others admits no others: a call never invents an argument.
    """
    result: dict[str, dict[str, Any]] = {}
    for number, tool in enumerate(tools):
        function = tool.get("function", tool)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name.strip() or re.search(r'["\\\x00-\x1f]', name):
            raise ConfigError(f"tool {number}: {name!r} is no name a call can hold", hint="use letters, digits, '_', '-' and '.'")
        if name in result:
            raise ConfigError(f"tool {number}: the name '{name}' occurs twice", hint="give every tool its own name")
        schema = check_schema(function.get("parameters") or {}, where=f"tool '{name}'")
        if schema.setdefault("type", "object") != "object":
            raise ConfigError(f"tool '{name}': its parameters have type {schema['type']!r}", hint="parameters are an object")
        schema.setdefault("properties", {})
        result[name] = _closed(schema)
    return result


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    if isinstance(schema.get("properties"), dict):
        closed["properties"] = {key: _closed(part) for key, part in schema["properties"].items()}
        closed["properties"] |= {key: True for key in schema.get("required", ()) if key not in schema["properties"]}
        if set(schema) <= _CLOSABLE:
            closed["additionalProperties"] = False
    if isinstance(schema.get("items"), dict):
        closed["items"] = _closed(schema["items"])
    return closed


class CallGrammar:
    """Writes the Lark of one call format. ``special`` are the added tokens of the tokenizer: they are written as ids, never as text."""

    def __init__(self, form: CallFormat, special: Mapping[str, int], json_options: Mapping[str, Any]) -> None:
        self._form, self._special = form, special
        separators = {"item_separator": form.item_separator, "key_separator": form.key_separator}
        self._json_options = {**json_options, **separators}
        longest_first = sorted(special, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if special else None
        self._rules: list[str] = []

    def grammar(self, parameters: Mapping[str, Mapping[str, Any]], choice: str) -> str:
        """Lark of a whole turn. ``parameters``: the schema of each tool's arguments.

        ``choice``: "auto" (text, or text and calls), "required" (calls), "none", or the name of the tool to be called, once.
        """
        self._rules = ["%llguidance {}", "ANY: /(?s:.*)/"]
        thinking = self._thinking()
        if choice == "none":
            self._rules.append(f"start: {thinking} {self._text_without_calls()}")
            return "\n".join(self._rules)
        if not parameters:
            raise ConfigError(f"constraint tool_calls '{choice}': the request has no tools", hint="give it tools, or use 'none'")
        if choice not in ("auto", "required"):
            if choice not in parameters:
                raise ConfigError(
                    f"constraint tool_calls: there is no tool '{choice}'",
                    hint="'auto', 'required', 'none', or a tool's name; " + suggest(choice, parameters),
                )
            parameters = {choice: parameters[choice]}
        many = self._form.many and choice in ("auto", "required")
        opening = self._form.lead + self._form.literals[0]
        first, others = self._alternatives("first", "", parameters), self._literal(self._form.trail)
        if many:
            again = self._alternatives("again", self._form.separator + self._form.literals[0], parameters)
            others = f"{again}* {others}"
        if choice == "auto":
            self._rules.append(f"start: {thinking} {self._text_without_calls()} | {thinking} {self._text_until(opening)} {first} {others}")
        else:
            self._rules.append(f"start: {thinking} {self._literal(opening)} {first} {others}")
        return "\n".join(self._rules)

    def _alternatives(self, rule: str, opening: str, parameters: Mapping[str, Any]) -> str:
        """A rule for one call of any of the tools, from ``opening`` in place of the format's first literal to its last one."""
        names = [f"{rule}_{number}" for number in range(len(parameters))]
        for number, (own, (name, schema)) in enumerate(zip(names, parameters.items(), strict=True)):
            if rule == "first":
                self._rules.append(f"arguments_{number}: %json {json.dumps({**schema, 'x-guidance': self._json_options})}")
            parts, text = [], opening
            for hole, literal in zip(self._form.holes, self._form.literals[1:], strict=True):
                if hole == "name":
                    text += name
                else:
                    parts += [self._literal(text), f"arguments_{number}" if hole == "arguments" else "CALL_ID"]
                    text = ""
                text += literal
            self._rules.append(f"{own}: {' '.join([*parts, self._literal(text)])}")
        self._rules.append(f"{rule}: {' | '.join(names)}")
        if "id" in self._form.holes and rule == "first":
            self._rules.append("CALL_ID: /[A-Za-z0-9]{9}/")
        return rule

    def _thinking(self) -> str:
        """An optional block of reasoning in front."""
        if self._form.thinking is None:
            return ""
        opening, closing = self._form.thinking
        marker = closing.strip()
        rest = closing[closing.index(marker) + len(marker) :]
        self._rules.append(f"thinking: {self._literal(opening)} {self._until('THOUGHT', marker)} {self._literal(rest)}")
        return "thinking?"

    def _text_until(self, opening: str) -> str:
        """Free text, where the format allows it in front of calls, and what opens the first call."""
        marker = self._form.marker
        if not marker or not self._form.with_content:
            return self._literal(opening)
        rest = opening[opening.index(marker) + len(marker) :]
        return f"{self._until('TEXT', marker)} {self._literal(rest)}"

    def _text_without_calls(self) -> str:
        """Any text that does not read as a call."""
        if self._form.marker:
            return self._text_without("TEXT", self._form.marker)
        self._rules.append(r"TEXT: /(?s:\s*([^\s{].*)?)/")
        return "TEXT"

    def _until(self, name: str, marker: str) -> str:
        """Any text up to and with the next ``marker``."""
        if marker in self._special:
            return f"{self._text_without(name, marker)} {self._literal(marker)}"
        self._rules.append(f"{name.lower()}_until[lazy]: ANY {self._literal(marker)}")
        return f"{name.lower()}_until"

    def _text_without(self, name: str, marker: str) -> str:
        """A terminal for text that does not hold ``marker``, not even spelt with ordinary tokens."""
        rule = f"{name}: ANY & ~{name}_MARKED"
        if rule not in self._rules:
            self._rules += [f"{name}_MARKED: ANY {json.dumps(marker, ensure_ascii=False)} ANY", rule]
        return name

    def _literal(self, text: str) -> str:
        """Text in Lark, added tokens as ids."""
        parts = self._split.split(text) if self._split else [text]
        return " ".join(
            f"<[{self._special[part]}]>" if part in self._special else json.dumps(part, ensure_ascii=False) for part in parts if part
        )
