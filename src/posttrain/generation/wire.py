"""Chat completions on the wire, after the OpenAI API reference: a request's JSON body, and an answer read from a response."""

import json
from typing import Any

import httpx

from posttrain.chat.call_reader import MAX_DEPTH, is_too_deep, no_constant
from posttrain.errors import InfrastructureError
from posttrain.records import CallRecord, Constraint, Generation, GenerationRequest, Message

SEED_BITS = 63
"""Servers hold seeds in signed 64-bit numbers."""


SENT_CONSTRAINTS = ("json_schema", "tool_calls")
"""Kinds of constraint the API has fields for."""


def request_body(request: GenerationRequest, model: str) -> dict[str, Any]:
    """The JSON body of a request. ``top_k`` is sent only when set: it is no standard field, but common servers know it.

    What the API has no field for (exact prompt ids, other constraints) is there under names of our own: endpoints refuse it before, and a
    hash of the body tells requests apart.
    """
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in request.messages],
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed % 2**SEED_BITS,
    }
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logprobs:
        body["logprobs"] = True
    if request.tools:
        body["tools"] = [dict(tool) for tool in request.tools]
    if request.prompt_ids:
        body["prompt_ids"] = list(request.prompt_ids)
    if request.constraint is not None:
        body.update(_constraint(request.constraint))
    return body


def _constraint(constraint: Constraint) -> dict[str, Any]:
    if constraint.kind == "json_schema":
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": constraint.value, "strict": True}}}
    if constraint.kind == "tool_calls":
        modes = ("auto", "required", "none")
        named = {"type": "function", "function": {"name": constraint.value}}
        return {"tool_choice": constraint.value if constraint.value in modes else named}
    return {"constraint": {"kind": constraint.kind, "value": constraint.value}}


def _message(message: Message) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        wire["tool_calls"] = [
            {
                "id": call.id or f"call_{number}",
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)},
            }
            for number, call in enumerate(message.tool_calls)
        ]
    for name in ("tool_call_id", "name"):
        if (value := getattr(message, name)) is not None:
            wire[name] = value
    if message.reasoning is not None:
        wire["reasoning_content"] = message.reasoning  # no standard field, but the name that servers and templates know
    return wire


def response_to_generation(response: httpx.Response, request: GenerationRequest, seconds: float, where: str) -> Generation:
    """Read the first choice. Raises InfrastructureError where the answer is none.

    ``calls`` are the tool calls, not executed; one that cannot be read has no name, a sentence for the model as its result, and stays in
    the text as JSON.
    """
    try:
        payload = response.json()
        choice, usage = payload["choices"][0], payload.get("usage") or {}
        message = choice["message"]
        wanted = message.get("tool_calls") or ()
        calls = tuple(_call(call) for call in wanted)
        unread = [json.dumps(wire["function"], ensure_ascii=False) for wire, call in zip(wanted, calls, strict=True) if call.is_error]
        entries = (choice.get("logprobs") or {}).get("content") or ()
        return Generation(
            text="\n".join(part for part in (message.get("content"), *unread) if part),
            finish_reason="length" if choice.get("finish_reason") == "length" else "stop",
            num_prompt_tokens=int(usage.get("prompt_tokens", 0)),
            num_completion_tokens=int(usage.get("completion_tokens", 0)),
            seconds=seconds,
            logprobs=tuple(float(entry["logprob"]) for entry in entries) if request.sampling.logprobs else (),
            id=request.id,
            calls=calls,
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InfrastructureError(
            f"{where}: the answer is no chat completion ({type(error).__name__}: {error}): {response.text[:300]}",
            hint="check that the URL is that of an OpenAI-compatible server",
        ) from None


def _call(wire: dict[str, Any]) -> CallRecord:
    function = wire["function"]
    name = str(function["name"])
    arguments: Any = function.get("arguments") or "{}"
    try:
        arguments = json.loads(arguments, parse_constant=no_constant) if isinstance(arguments, str) else arguments
        problem = "" if isinstance(arguments, dict) else "are not a JSON object"
        problem = f"are nested more than {MAX_DEPTH} deep" if is_too_deep(arguments) else problem
    except (ValueError, RecursionError) as error:
        problem = f"are not JSON: {error}"
    if problem:
        return CallRecord("", {}, "error", f"The arguments of '{name}' {problem}.", True, 0)
    return CallRecord(name, arguments, "ok", "", False, 0, id=wire.get("id"))
