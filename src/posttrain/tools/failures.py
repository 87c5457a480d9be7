"""What a tool raises to say in its own words what went wrong; the text reaches the model."""


class ToolError(Exception):
    """The tool declines, in words the model can use ("the account is closed").

    Raised by an action, it says that nothing was done; with ``settled=False``, that something may have been. Any other exception counts as
    a failure half way. An action that may have been done is not tried again.
    """

    def __init__(self, message: str, *, settled: bool = True) -> None:
        super().__init__(message)
        self.settled = settled


class ToolUnavailable(ToolError):
    """What stands behind the tool cannot be reached, or is no longer what it was. Status "unavailable"."""


class InvalidArguments(ToolError):
    """Arguments that fit the schema but cannot be accepted; one sentence a problem. Status "invalid_arguments"."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
