"""A call in a process of its own, which is killed with its whole group at the deadline.

It keeps crashes, hangs and leaks of a function away from this process. It is no sandbox: the function has the rights of this user.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from operator import attrgetter
from typing import Any

from posttrain.tools.access import Caller
from posttrain.tools.failures import ToolError
from posttrain.tools.functions import TypedFunction, tool
from posttrain.tools.invoke import answer_of, timed_out
from posttrain.tools.results import Answer
from posttrain.tools.tool import Tool, locate

_START = """
import json, sys
request = json.load(sys.stdin)
sys.path[:] = request["path"]
from posttrain.tools.isolated import main
main(request)
"""


def run_isolated(contract: Tool, arguments: Mapping[str, Any], caller: Caller, seconds: float) -> Answer:
    """Run ``contract``'s function in a new process; at the deadline, or when the process dies, the answer says so."""
    assert contract.function is not None
    module, name = locate(contract.function, f"tool '{contract.name}'")
    request = {
        "path": sys.path,
        "module": module,
        "file": getattr(sys.modules.get(module), "__file__", None),
        "function": name,
        "typed": isinstance(contract.function, TypedFunction),
        "tool": {key: getattr(contract, key) for key in ("name", "action", "max_result_chars", "caller_argument")},
        "arguments": dict(arguments),
        "caller": asdict(caller),
    }
    with subprocess.Popen(
        [sys.executable, "-c", _START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            written, _ = process.communicate(json.dumps(request).encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            return timed_out(contract, seconds)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    try:
        return Answer(**json.loads(written))
    except (ValueError, TypeError):
        code = process.returncode
        ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Answer(f"{contract.name} failed: its process ended with {ended} before it answered", "error", True, settled=False)


def main(request: Mapping[str, Any]) -> None:
    """In the new process: find the function, call it, write the answer; what the function prints goes nowhere."""
    answers = os.dup(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    arguments = dict(request["arguments"])
    if request["tool"]["caller_argument"]:
        arguments[request["tool"]["caller_argument"]] = Caller(**request["caller"])
    contract = Tool(description="", parameters={"type": "object"}, function=lambda **given: _find(request)(**given), **request["tool"])
    answer = answer_of(contract, arguments)
    with os.fdopen(answers, "wb") as stream:
        stream.write(json.dumps(asdict(answer)).encode())


def _find(request: Mapping[str, Any]) -> Any:
    module = _import(request["module"], request["file"])
    try:
        found = attrgetter(request["function"])(module)
    except AttributeError:
        raise ToolError(f"its function {request['function']} is no longer in {request['module']}") from None
    if isinstance(found, Tool):
        found = found.function
    return tool(found).function if request["typed"] and not isinstance(found, TypedFunction) else found


def _import(module: str, file: str | None) -> Any:
    if module != "__main__" and importlib.util.find_spec(module) is not None:
        return importlib.import_module(module)
    if file is None:
        raise ToolError(f"its module {module} cannot be imported by another process")
    spec = importlib.util.spec_from_file_location(module.replace("__main__", "posttrain_main"), file)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded
