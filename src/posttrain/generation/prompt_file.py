"""A file of prompts in, a file of answers out; a killed run goes on where it was."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from posttrain.config import content_hash
from posttrain.data import conversations
from posttrain.data.sources import BadRow, open_source
from posttrain.errors import ConfigError, DataError, InfrastructureError
from posttrain.generation.protocol import Generator
from posttrain.generation.wire import request_body
from posttrain.records import Constraint, FieldError, Generation, GenerationRequest, Message, SamplingSettings

PROMPT_COLUMNS = ("messages", "prompt")
_ROW_BEGINS = b'{"id": "'


def read_prompts(path: str | Path, sampling: SamplingSettings, *, system: str = "") -> list[GenerationRequest]:
    """One request a row of any file `posttrain check` reads: ``messages`` or ``prompt`` (text or messages), and optionally ``system``,
    ``tools``, ``id``.

    Without ``id`` a request is called by its place in the file; a repeated id is refused. ``system`` is put before conversations that have
    no system message. A trailing assistant message is left out: it is what is asked for. Raises DataError with file, line and field.
    """
    source = open_source(path)
    requests: dict[str, GenerationRequest] = {}
    for position, row in source.rows():
        where = f"{source.path}:{position}" if source.unit == "line" else f"{source.path}, row {position}"
        if isinstance(row, BadRow):
            raise DataError(f"{where}: {row.problem}", hint=row.fix)
        try:
            request = _request(row, str(position), sampling, system)
        except FieldError as error:
            raise DataError(f"{where}: {error.message}", hint=error.hint) from None
        if request.id in requests:
            raise DataError(
                f"{where}: id '{request.id}' occurs twice (a row without one is called by its place)",
                hint="give every prompt its own id, or none",
            )
        requests[request.id] = request
    if not requests:
        raise DataError(f"{source.path}: holds no prompt", hint='a line is {"prompt": "..."} or {"messages": [...]}')
    return list(requests.values())


def _request(row: dict[str, Any], default_id: str, sampling: SamplingSettings, system: str) -> GenerationRequest:
    column = next((name for name in PROMPT_COLUMNS if row.get(name)), None)
    if column is None:
        raise FieldError("prompt", "is missing", row, fix='a line is {"prompt": "..."} or {"messages": [...]}')
    turns = conversations.with_system(row, conversations.side(row[column], column, "user"))
    if turns[-1:] and turns[-1].role == "assistant":
        turns = turns[:-1]
    if not turns:
        raise FieldError(column, "has no turn to answer", row[column], fix="end with a user or tool message")
    if turns[-1].role == "user" and not turns[-1].content.strip():
        raise FieldError(column, "ends with an empty message", row[column], fix="there is nothing to answer: leave the row out")
    if system and turns[0].role != "system":
        turns = (Message(role="system", content=system), *turns)
    return GenerationRequest(
        turns, tools=conversations.tools(row), sampling=sampling, id=default_id if row.get("id") is None else str(row["id"])
    )


def read_constraint(*, schema: Path | None = None, regex: str = "", lark: Path | None = None, call: str = "") -> Constraint | None:
    """The constraint that command-line options ask for: a file with a JSON Schema or a Lark grammar, a pattern, or a choice of calls.

    None where nothing is asked. Raises ConfigError for a file that cannot be read and for more than one constraint.
    """
    asked = {"--schema": schema, "--regex": regex, "--lark": lark, "--call": call}
    named = [name for name, value in asked.items() if value]
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)} exclude each other", hint="give one constraint")
    try:
        if schema:
            return Constraint("json_schema", json.loads(schema.read_text(encoding="utf-8")))
        if lark:
            return Constraint("lark", lark.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{schema or lark}: cannot be read: {error}", hint="give a UTF-8 file; a schema is one JSON object") from None
    if regex:
        return Constraint("regex", regex)
    return Constraint("tool_calls", call) if call else None


def answer_prompts(
    generator: Generator,
    requests: Sequence[GenerationRequest],
    out: str | Path,
    *,
    on_answer: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Answer what ``out`` does not answer yet, adding each answer as it is finished. Returns all rows in the order of ``requests``.

    A row's ``key`` is a hash of generator and request; a row of ``out`` with a known id and another key raises ConfigError, and so does a
    file that holds anything else: nothing of it is changed then. A last line cut short by a kill is removed. ``on_answer(done, total)``
    reports progress.
    """
    file = Path(out)
    if file.exists() and not file.is_file():
        raise ConfigError(f"{file}: is a folder or a device", hint="name a file for the answers (--out)")
    keys = {request.id: _key(generator, request) for request in requests}
    with _disk_errors(file):
        rows = _finished(file, keys)
    todo = [request for request in requests if request.id not in rows]
    with _written(file) as stream:

        def keep(index: int, generation: Generation) -> None:
            row = _answer_row(generation, keys[todo[index].id])
            _append(stream, row)
            rows[generation.id] = row
            if on_answer:
                on_answer(len(rows), len(requests))

        if on_answer:
            on_answer(len(rows), len(requests))
        generator.generate(todo, on_done=keep)
    return [rows[request.id] for request in requests]


@contextmanager
def _written(file: Path) -> Iterator[IO[str]]:
    """``file`` opened to add to, on disk when the block ends."""
    with _disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a", encoding="utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())


@contextmanager
def _disk_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "free some space or choose another --out; the same command goes on where it was"
        raise InfrastructureError(f"{file}: cannot be written: {error.strerror or error}", hint=hint) from None


def _key(generator: Generator, request: GenerationRequest) -> str:
    return content_hash([generator.identity, request_body(request, "")])[:16]


def _answer_row(generation: Generation, key: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": generation.id,
        "text": generation.text,
        "finish_reason": generation.finish_reason,
        "num_prompt_tokens": generation.num_prompt_tokens,
        "num_completion_tokens": generation.num_completion_tokens,
        "seconds": round(generation.seconds, 4),
        "key": key,
    }
    if generation.calls:
        row["calls"] = [{"name": call.name, "arguments": call.arguments} for call in generation.calls]
    if generation.logprobs:
        row["token_ids"], row["logprobs"] = list(generation.token_ids), list(generation.logprobs)
    return row


def _append(stream: IO[str], row: dict[str, Any]) -> None:
    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    stream.flush()


def _finished(file: Path, keys: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Rows already answered, by id; a last line without its end is cut off the file."""
    if not file.exists():
        return {}
    content = file.read_bytes()
    *lines, last = content.split(b"\n")
    is_cut = _ROW_BEGINS.startswith(last[: len(_ROW_BEGINS)]) and not _is_json(last)
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines if is_cut else (*lines, last), start=1):
        try:
            row = json.loads(line)
            identifier, key = row["id"], row["key"]
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{file}:{number}: no answer written by this command", hint="choose another --out") from None
        if identifier in keys and keys[identifier] != key:
            raise ConfigError(
                f"{file}:{number}: '{identifier}' was answered by another model, prompt or sampling setting",
                hint="choose another --out, or remove the file to answer again",
            )
        if identifier in keys:
            rows[identifier] = row
    if last and is_cut:
        os.truncate(file, len(content) - len(last))
    elif last:
        with open(file, "ab") as stream:
            stream.write(b"\n")
    return rows


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
