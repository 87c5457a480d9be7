"""Run loggers: parameters, metrics by step, artefacts. Any tracker is one small class registered under a name.

A tracker that breaks never stops a run: :class:`SafeLoggers` reports the first failure of each once and goes on without it.
"""

import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from posttrain.config import Registry
from posttrain.config.files import write_text
from posttrain.errors import ConfigError
from posttrain.lineage.mlflow_logger import HOW_TO_INSTALL, NOT_INSTALLED, MlflowLogger


class RunLogger(Protocol):
    """What a tracker does. ``params`` are JSON types, nested as the configuration is; metrics are finite or not, as they came."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record the settings of the run, once."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers at an optimiser step."""

    def log_artifact(self, path: str | Path) -> None:
        """Record a file that the run wrote."""

    def close(self) -> None:
        """Flush and let go."""


LoggerFactory = Callable[..., RunLogger]
"""Makes a logger from the run's folder and the logger's own options, given as keywords."""

loggers: Registry[LoggerFactory] = Registry("logger")


@loggers.register("jsonl")
class JsonlLogger:
    """One JSON object a line in ``<run folder>/log.jsonl``, flushed at once; a resumed run goes on in the same file.

    A killed run has logged steps after its last checkpoint. When it goes on, they are cut off, so that the file is that of a run which was
    never killed.
    """

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / "log.jsonl"
        self._earlier = _read_rows(self._path)  # of the run before this one, until this one has logged a step
        if self._path.is_file() and not self._path.read_bytes().endswith(b"\n"):  # killed in the middle of a line
            write_text(self._path, "".join(map(_line, self._earlier)))
        self._stream = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """A line with ``params``, unless they are those of the run before."""
        row = json.loads(json.dumps({"params": dict(params)}))
        known = [earlier for earlier in self._earlier if "params" in earlier]
        if not known or known[-1] != row:
            self._write(row)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """A line with ``step`` and ``metrics``; a number that is not finite is written as text ("nan", "inf"), for JSON has none."""
        if self._earlier:
            self._cut(step)
        plain = {name: value if abs(value) < float("inf") else str(value) for name, value in metrics.items()}
        self._write({"step": step, "metrics": plain})

    def log_artifact(self, path: str | Path) -> None:
        """A line with the path."""
        self._write({"artifact": str(path)})

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _cut(self, step: int) -> None:
        """Take out the rows of ``step`` and later ones: this run does them again."""
        self._earlier = []
        self._stream.close()
        kept = [row for row in _read_rows(self._path) if row.get("step", 0) < step]
        write_text(self._path, "".join(map(_line, kept)))
        self._stream = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)

    def _write(self, row: Mapping[str, Any]) -> None:
        self._stream.write(_line(row))
        self._stream.flush()


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a log up to the first that is none."""
    rows: list[dict[str, Any]] = []
    try:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            rows.append(dict(json.loads(line)))
    except (FileNotFoundError, ValueError, TypeError):
        pass
    return rows


loggers.register("mlflow")(MlflowLogger)


class SafeLoggers:
    """Several loggers as one; itself a :class:`RunLogger`.

    The loggers are other people's code and other people's servers: whatever they raise (short of an interrupt) is reported once
    through ``report`` and that logger is left out from then on. Training goes on.
    """

    def __init__(self, entries: Mapping[str, RunLogger], *, report: Callable[[str], None]) -> None:
        self._entries = dict(entries)
        self._report = report

    def log_params(self, params: Mapping[str, Any]) -> None:
        """To every logger that still works."""
        self._each(lambda logger: logger.log_params(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """To every logger that still works."""
        self._each(lambda logger: logger.log_metrics(metrics, step))

    def log_artifact(self, path: str | Path) -> None:
        """To every logger that still works."""
        self._each(lambda logger: logger.log_artifact(path))

    def close(self) -> None:
        """Every logger that still works."""
        self._each(lambda logger: logger.close())

    def _each(self, action: Callable[[RunLogger], None]) -> None:
        for name, logger in list(self._entries.items()):
            try:
                action(logger)
            except Exception as error:
                del self._entries[name]
                self._report(f"logger '{name}' failed and is switched off for this run; training goes on: {type(error).__name__}: {error}")


LoggerNames = Sequence[str | Mapping[str, Mapping[str, Any]]]


def check_loggers(names: LoggerNames) -> None:
    """Raise ConfigError for a name or option that no logger has, and for a missing extra; opens nothing."""
    for name, options in _named(names):
        factory = loggers.get(name)
        try:
            inspect.signature(factory).bind(Path(), **options)
        except TypeError as error:
            taken = [option for option in inspect.signature(factory).parameters if option != "run_dir"]
            raise ConfigError(f"logger '{name}': {error}", hint=f"its options: {', '.join(taken) or 'none'}") from None
        if factory is MlflowLogger and importlib.util.find_spec("mlflow") is None:
            raise ConfigError(NOT_INSTALLED, hint=HOW_TO_INSTALL)


def build_loggers(names: LoggerNames, run_dir: str | Path, *, report: Callable[[str], None] | None = None) -> SafeLoggers:
    """Loggers from a configuration such as ``["jsonl", {"mlflow": {"tracking_uri": "sqlite:///mlflow.db"}}]``.

    Raises as :func:`check_loggers` does: that is a mistake to mend before the run, not a failure in it. ``report`` takes one line; by
    default it goes to stderr.
    """
    check_loggers(names)
    entries = {name: loggers.get(name)(Path(run_dir), **options) for name, options in _named(names)}
    return SafeLoggers(entries, report=report or (lambda line: print(line, file=sys.stderr)))


def _named(names: LoggerNames) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for entry in names:
        if isinstance(entry, str):
            yield entry, {}
        elif len(entry) == 1:
            name, options = next(iter(entry.items()))
            yield name, options or {}
        else:
            raise ConfigError(f"loggers: {dict(entry)} is not one logger", hint="write a name, or {name: {option: value}}")
