"""The contract of one tool: what a model sees, who may call it, how it behaves, and a version over all of that."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.config import content_hash
from posttrain.errors import ConfigError
from posttrain.tools.schema import check_parameters, is_utf8

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
MAX_DESCRIPTION_CHARS = 8_000
_NUMBERS = (
    ("cost", 0.0, 1e12, (int, float)),
    ("timeout_seconds", 0.001, 1e6, (int, float)),
    ("retries", 0, 1000, (int,)),
    ("max_result_chars", 100, 1e9, (int,)),
)
"""Field, least, greatest, types; the clocks of threads cannot wait for ever."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool a model may call. Raises ConfigError for what cannot work.

    ``parameters`` is a JSON Schema of type object. ``function`` is called with the arguments as keywords; without one the tool can be shown
    but not called. ``action``: calling it changes something, so it is done at most once (see :class:`Toolbox`). ``roles`` and ``tenants``
    say who may call it; None is everybody. ``cost`` of one call, in any unit. ``timeout_seconds`` bounds a call with all its ``retries``,
    which only a tool that is no action may have. A result is cut at ``max_result_chars``. ``isolate`` runs each call in a process of its
    own, which can be killed; the function must be importable. ``caller_argument`` names the argument that receives the :class:`Caller`.
    ``declared_version`` is for its author to raise when the code changes its meaning.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any] | None = None
    action: bool = False
    roles: Collection[str] | None = None
    tenants: Collection[str] | None = None
    cost: float = 0.0
    timeout_seconds: float = 10.0
    retries: int = 0
    max_result_chars: int = 4000
    declared_version: str = "1"
    isolate: bool = False
    caller_argument: str = ""

    def __post_init__(self) -> None:
        where = f"tool '{self.name}'"
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise ConfigError(
                f"tool name {str(self.name)[:80]!r} cannot be used", hint="a letter, then letters, digits, _ . or -, at most 128"
            )
        if not isinstance(self.description, str) or not is_utf8(self.description) or len(self.description) > MAX_DESCRIPTION_CHARS:
            raise ConfigError(f"{where}: the description must be UTF-8 text of at most {MAX_DESCRIPTION_CHARS:,} characters")
        check_parameters(self.parameters, where)
        object.__setattr__(self, "parameters", json.loads(json.dumps(self.parameters)))  # what was checked stays what it is
        for name, low, high, kinds in _NUMBERS:
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
                whole = "number" if float in kinds else "whole number"
                raise ConfigError(f"{where}: {name} is {value!r}", hint=f"give a {whole} from {low:g} to {high:g}")
        if not isinstance(self.action, bool):
            raise ConfigError(f"{where}: action is {self.action!r}", hint="write true or false")
        if self.retries and self.action:
            raise ConfigError(
                f"{where}: an action has retries={self.retries}", hint="only what is safe to repeat is retried; leave retries at 0"
            )
        for name in ("roles", "tenants"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ConfigError(f"{where}: {name} is one string", hint=f"give a collection: {name}=({value!r},)")
            if value is not None and not (isinstance(value, Collection) and all(isinstance(one, str) for one in value)):
                raise ConfigError(f"{where}: {name} is {value!r:.80}", hint="give a collection of strings, or None: everybody")
        if self.isolate and self.function is not None:
            locate(self.function, where)

    @property
    def signature(self) -> dict[str, Any]:
        """What the model sees, in OpenAI's form."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}

    @property
    def contract(self) -> dict[str, Any]:
        """Everything the version covers, as plain JSON: signature, declared version, permissions and behaviour."""
        return {
            "signature": self.signature,
            "declared_version": self.declared_version,
            "action": self.action,
            "roles": None if self.roles is None else sorted(self.roles),
            "tenants": None if self.tenants is None else sorted(self.tenants),
            "cost": float(self.cost),
            "timeout_seconds": float(self.timeout_seconds),
            "retries": self.retries,
            "max_result_chars": self.max_result_chars,
            "isolate": self.isolate,
        }

    @property
    def version(self) -> str:
        """``sha256:...`` over :attr:`contract`. The function's code is not in it: raise ``declared_version`` when its meaning changes."""
        return "sha256:" + content_hash(self.contract)

    def permits(self, role: str, tenant: str) -> bool:
        """Whether a caller with this role, of this tenant, may call it."""
        return (self.roles is None or role in self.roles) and (self.tenants is None or tenant in self.tenants)


def locate(function: Callable[..., Any], where: str) -> tuple[str, str]:
    """(module, qualified name) under which another process finds ``function``; ConfigError when it cannot."""
    target = getattr(function, "__wrapped__", function)
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", "")
    if not module or "<" in name or not name:
        raise ConfigError(f"{where}: isolate needs a function at the top level of a module, found {name or target!r}", hint="move it there")
    return module, name
