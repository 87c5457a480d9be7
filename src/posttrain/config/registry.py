"""One registry class for objectives, scorers, verifiers, metrics, tools, loggers: typed, duplicates refused."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from posttrain.errors import ConfigError, suggest

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to objects of one type. ``Registry[Scorer]("scorer")`` then ``@scorers.register("contains")``."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: add an object under ``name``; a name already taken raises."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ConfigError(f"{self._what} '{name}' is registered twice", hint="choose another name")
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> T:
        """The entry called ``name``; an unknown name raises with the nearest known one."""
        if name not in self._entries:
            raise ConfigError(f"unknown {self._what} '{name}'", hint=suggest(name, self._entries))
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._entries
