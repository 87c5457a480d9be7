"""Messages to text: one Jinja chat template, compiled once in transformers' sandbox, rendered the same way every time.

Two things differ from ``tokenizer.apply_chat_template`` on purpose, both recorded in the contract's hash: ``strftime_now`` gives a
fixed date (:data:`TEMPLATE_DATE`), and tool calls are passed in the form this template is found to print (see :class:`CallForm`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

from posttrain.errors import ContractError
from posttrain.records import ROLES, Message, ToolCall

TEMPLATE_DATE = "2024-07-26"
"""The day every template believes it is. A template that prints today's date would give other token ids tomorrow."""


@dataclass(frozen=True, slots=True)
class CallForm:
    """How tool calls are handed to the template: arguments as an object or as JSON text, empty content as "" or None."""

    arguments_as_json: bool = False
    empty_content_none: bool = False


CALL_FORMS = (CallForm(), CallForm(empty_content_none=True), CallForm(arguments_as_json=True), CallForm(True, True))

PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"probe_key": {"type": "string"}}, "required": ["probe_key"]},
    },
}
PROBE_CALL = ToolCall(name="probe_tool", arguments={"probe_key": "probe value"}, id="probecall")
PROBE_CHAT = (Message("user", "probe question"), Message("assistant", "", tool_calls=(PROBE_CALL,)))


class TemplateRenderer:
    """A compiled chat template with the special tokens it may name. ``call_form`` is None when it cannot print tool calls."""

    def __init__(self, template: str, special_tokens: Mapping[str, str]) -> None:
        self.template = template
        self.special_tokens = dict(special_tokens)
        try:
            self._compiled = _compile_jinja_template(template)
        except jinja2.TemplateError as error:
            line = getattr(error, "lineno", None)
            raise ContractError(
                f"the chat template does not compile{f' (line {line})' if line else ''}: {error}", hint="fix the Jinja named"
            ) from None
        self.call_form: CallForm | None = self._find_call_form()

    def render(self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = (), add_generation_prompt: bool = False) -> str:
        """The text of a conversation. Raises ContractError when the template refuses it or cannot print its tool calls."""
        form = self.call_form
        if form is None:
            if any(message.tool_calls for message in messages):
                raise ContractError(
                    "the chat template does not print tool calls, and this conversation has some",
                    hint="use a model or template made for tools, or turn the calls into plain text",
                )
            form = CALL_FORMS[0]
        return self._render(messages, tools, add_generation_prompt, form)

    def _render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], add_generation_prompt: bool, form: CallForm) -> str:
        chat = [_as_dict(message, form) for message in messages]
        try:
            text = self._compiled.render(
                messages=chat,
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                strftime_now=_fixed_date,
                **self.special_tokens,
            )
        except Exception as error:  # a template is a program: whatever it raises is its own fault
            raise ContractError(
                f"the chat template refuses this conversation ({' '.join(m.role for m in messages)}): {error}",
                hint="change the conversation to what the template accepts, or give another template",
            ) from None
        return str(text)

    def _find_call_form(self) -> CallForm | None:
        for form in CALL_FORMS:
            try:
                text = self._render(PROBE_CHAT, (PROBE_TOOL,), False, form)
                bare = self._render(PROBE_CHAT[:1], (PROBE_TOOL,), False, form)
            except ContractError:
                continue
            needles = (PROBE_CALL.name, "probe_key", "probe value")
            if all(text.count(needle) > bare.count(needle) for needle in needles) and '\\"' not in text:
                return form
        return None


def _fixed_date(pattern: str) -> str:
    return datetime.fromisoformat(TEMPLATE_DATE).strftime(pattern)


def _as_dict(message: Message, form: CallForm) -> dict[str, Any]:
    """The dictionary templates read, with OpenAI-style keys; keys without a value are left out."""
    if message.role not in ROLES:
        raise ContractError(f"message role '{message.role}' is unknown", hint="roles are " + ", ".join(ROLES))
    result: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        if not message.content and form.empty_content_none:
            result["content"] = None
        result["tool_calls"] = [_call_as_dict(call, form) for call in message.tool_calls]
    if message.tool_call_id is not None:
        result["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        result["name"] = message.name
    if message.reasoning is not None:
        result["reasoning_content"] = message.reasoning
    return result


def _call_as_dict(call: ToolCall, form: CallForm) -> dict[str, Any]:
    arguments: Any = dict(call.arguments)
    if form.arguments_as_json:
        arguments = json.dumps(arguments, ensure_ascii=False)
    result: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
    if call.id is not None:
        result["id"] = call.id
    return result
