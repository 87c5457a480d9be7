"""A file with tools, as a user writes one; its functions misbehave in every way a process can."""

import os
import subprocess
import time
from pathlib import Path

from posttrain.tools import Caller, ToolError, tool


@tool
def add(a: int, b: int = 1) -> int:
    """Add two whole numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


@tool(action=True, roles=("treasurer",), tenants=("bank_A", "saas_C"))
def transfer(to: str, amount: float, log: str) -> str:
    """Move money."""
    with open(log, "a") as stream:
        stream.write(f"{to} {amount}\n")
    return f"sent {amount:g} to {to}"


@tool(isolate=True, timeout_seconds=30)
def who(caller: Caller) -> str:
    """Say who calls, from another process."""
    print("noise that must not reach the answer")
    return f"{caller.role} of {caller.tenant} in {os.getpid()}"


@tool(isolate=True, timeout_seconds=30)
def crash(code: int) -> str:
    """End the process."""
    os._exit(code)


@tool(isolate=True, timeout_seconds=30)
def decline() -> str:
    """Refuse."""
    raise ToolError("the period is closed")


@tool(isolate=True, timeout_seconds=6)
def hang_with_child(pids: str) -> str:
    """Never answer, and start a process that would live on."""
    child = subprocess.Popen(["sleep", "600"])
    Path(pids).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)
    return "never"
