"""Tools without a world: an environment over a toolbox, which may ask a person before anything is done."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posttrain.records import Message, ToolCall, ToolResult

if TYPE_CHECKING:
    from posttrain.tools import Toolbox

Approve = Callable[[ToolCall], bool]


class ToolboxEnvironment:
    """Calls go to ``toolbox``. With ``approve`` an action is done only where it says so; the model is told of a refusal."""

    def __init__(self, toolbox: "Toolbox", *, approve: Approve | None = None) -> None:
        self.toolbox, self._approve = toolbox, approve

    @property
    def tools(self) -> tuple[Mapping[str, Any], ...]:
        """Signatures of the tools this toolbox's caller may use."""
        return self.toolbox.signatures

    def call_many(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Results in the order of the calls. Everything is asked before anything is done."""
        refused = {index for index, call in enumerate(calls) if self._is_refused(call)}
        results = iter(self.toolbox.call_many([call for index, call in enumerate(calls) if index not in refused]))
        return [_not_done(call) if index in refused else next(results) for index, call in enumerate(calls)]

    def outcome(self, messages: Sequence[Message]) -> dict[str, Any]:
        """Nothing: there is no state to look at."""
        return {}

    def close(self) -> None:
        """Nothing is held."""

    def _is_refused(self, call: ToolCall) -> bool:
        tool = self.toolbox.tools.get(call.name)
        return self._approve is not None and tool is not None and tool.action and not self._approve(call)


def _not_done(call: ToolCall) -> ToolResult:
    return ToolResult(f"{call.name} was not called: the user refused it. Nothing was done.", True, "forbidden")
