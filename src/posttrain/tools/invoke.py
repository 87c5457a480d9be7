"""Calling a tool's function: whatever it does becomes an answer."""

import asyncio
import inspect
from typing import Any

from posttrain.tools.failures import InvalidArguments, ToolError, ToolUnavailable
from posttrain.tools.results import Answer, render
from posttrain.tools.tool import Tool


def answer_of(tool: Tool, arguments: dict[str, Any]) -> Answer:
    """Call the tool's function here and now; whatever it does becomes an answer."""
    try:
        value = tool.function(**arguments) if tool.function else None
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
        return render(value, tool.name, tool.max_result_chars)
    except InvalidArguments as error:
        return Answer(invalid_text(tool.name, error.problems), "invalid_arguments", True)
    except ToolUnavailable as error:
        return Answer(f"{tool.name} is unavailable: {error}", "unavailable", True, error.settled)
    except ToolError as error:
        return Answer(f"{tool.name}: {error}", "error", True, error.settled)
    except BaseException as error:  # SystemExit and MemoryError too: the tool's trouble stays the tool's
        said = _say(error)
        return Answer(f"{tool.name} failed: {type(error).__name__}{': ' + said if said else ''}", "error", True, settled=False)


def invalid_text(name: str, problems: list[str]) -> str:
    """What the model reads when its arguments do not fit."""
    if len(problems) == 1:
        return f"{name} was not called: {problems[0]}."
    return f"{name} was not called; {len(problems)} problems with its arguments:\n" + "\n".join(f"- {problem}" for problem in problems)


def timed_out(tool: Tool, seconds: float) -> Answer:
    """What the model reads when a tool did not answer in time; whether an action was done is then not known."""
    unknown = " Whether it was done is not known." if tool.action else ""
    return Answer(f"{tool.name} did not answer within {seconds:.3g} seconds.{unknown}", "timeout", True, settled=not tool.action)


def _say(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # an exception whose text cannot be made
        return f"(its text cannot be read: {type(second).__name__})"
