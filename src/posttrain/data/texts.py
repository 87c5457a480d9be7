"""Rows of text files: JSON Lines, JSON (streamed, however large) and CSV."""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from posttrain.data.sources import HEAD, MAX_LINE, BadRow, Rows, broken, damage, open_bytes

STRUCTURED = (
    *("messages", "conversations", "tools", "functions", "steps", "labels", "completions"),
    *("metadata", "history", "reward_model", "judgements"),
)
CONVERSATIONAL = ("prompt", "completion", "chosen", "rejected")
MAX_CELL = 16 << 20  # characters of one CSV cell; a longer one is an unclosed quote

CONTAINERS = ("data", "rows", "records", "examples", "instances", "items", "train", "test", "validation")
_ROWS = re.compile(r"\[\s*\{")
_NOT_BLANK = re.compile(r"[^ \t\r\n\ufeff]")  # files joined behind one another may each bring a byte-order mark


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def encoding_problem(raw: bytes, error: UnicodeDecodeError) -> BadRow:
    """What to say about bytes that are not UTF-8."""
    seen = raw[max(0, error.start - 20) : error.start + 20].decode("cp1252", errors="replace")
    return BadRow(
        problem=f"byte 0x{raw[error.start]:02x} at column {error.start + 1} is not UTF-8; read as latin-1 it says {seen!r}",
        fix="convert the file: iconv -f WINDOWS-1252 -t UTF-8",
        raw=raw.decode("utf-8", errors="replace"),
    )


def jsonl_rows(path: Path) -> Rows:
    """One JSON object a line; blank lines are passed over. Memory: one line."""
    with damage(path), open_bytes(path) as stream:
        number = 0
        while raw := stream.readline(MAX_LINE):
            number += 1
            if len(raw) == MAX_LINE:
                broken(
                    path,
                    f"line {number} is longer than {MAX_LINE >> 20} MiB",
                    "is it one JSON value? write one object a line, or name the file .json",
                )
            raw = raw.removeprefix(b"\xef\xbb\xbf")
            if raw.strip():
                yield number, _json_row(raw)


def _json_row(raw: bytes) -> dict[str, Any] | BadRow:
    try:
        line = raw.decode()
    except UnicodeDecodeError as error:
        return encoding_problem(raw, error)
    try:
        value = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        if not raw.endswith(b"\n"):
            return BadRow("the file ends in the middle of this line", "the copy or download was cut: get the file again", line)
        where = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        return BadRow(f"not valid JSON: {where}", "write one JSON object a line, with double quotes and no trailing comma", line)
    if not isinstance(value, dict):
        return BadRow(f"a row must be an object, found {type(value).__name__}", 'write {"column": value, ...}', line)
    return value


def json_rows(path: Path) -> Rows:
    """The objects of JSON arrays, of an array under a key such as "data", or objects one after another. Memory: one row."""
    with damage(path), open_bytes(path) as stream:
        for number, (raw, value) in enumerate(_Scanner(stream, path).values(), start=1):
            bad = BadRow(f"a row must be an object, found {type(value).__name__}", 'write {"column": value, ...}', raw)
            yield number, value if isinstance(value, dict) else bad


class _Scanner:
    """A window over JSON text: decodes one value at a time and forgets what lies behind it."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self._path = path
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._ended = False
        self._number = 0  # of the row read last

    def values(self) -> Iterator[tuple[str, Any]]:
        """Raw text and value of every row: items of arrays, of the array of rows in an object, or objects themselves."""
        rows = self._rows_of_object() if self.peek() == "{" else None
        plain = rows is None  # the first object tells: objects are rows, or they hold an array of rows
        while sign := self.peek():
            if sign == "{" and not plain:
                rows = rows or self._rows_of_object()
            if sign == "[":
                self._at += 1
                yield from self._items()
            elif rows is not None:
                (name, self._at), rows = rows, None
                yield from self._items()
                self._end_object(name)
            else:
                yield self._row()

    def _items(self) -> Iterator[tuple[str, Any]]:
        """The items of the array that begins here, past its closing bracket."""
        if self.peek() == "]":
            broken(self._path, "the array is empty", "make the file again")
        yield self._row()
        while self._next_item():
            yield self._row()

    def _row(self) -> tuple[str, Any]:
        self._number += 1
        return self._value()

    def _fill(self) -> None:
        """Read on. The step grows with the window, so a long value costs linear time."""
        chunk = self._stream.read(max(HEAD, len(self._text) - self._at))
        self._ended = not chunk
        try:
            more = self._decode.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            bad = encoding_problem(chunk, error)
            broken(self._path, bad.problem, bad.fix)
        self._text = self._text[self._at :] + more
        self._at = 0

    def peek(self) -> str:
        """The next character that is no blank; '' at the end of the file."""
        while True:
            match = _NOT_BLANK.search(self._text, self._at)
            if match:
                self._at = match.start()
                return match.group()
            self._at = len(self._text)
            if self._ended:
                return ""
            self._fill()

    def _value(self) -> tuple[str, Any]:
        """The raw text and the value that begin here."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                if end < len(self._text) or self._ended:
                    raw = self._text[self._at : end]
                    self._at = end
                    return raw, value
            except (ValueError, RecursionError) as error:
                if self._ended or len(self._text) - self._at > MAX_LINE:
                    self._refuse(error)
            self._fill()

    def _refuse(self, error: ValueError | RecursionError) -> NoReturn:
        cut = self._ended and isinstance(error, json.JSONDecodeError) and error.pos >= len(self._text.rstrip()) - 1
        if cut or "Unterminated string" in str(error):
            broken(self._path, f"the file ends in the middle of row {self._number}", "the copy or download was cut: get the file again")
        seen = self._text[self._at : self._at + 60]
        broken(self._path, f"row {self._number} is not valid JSON: {getattr(error, 'msg', error)}, in {seen!r}")

    def _rows_of_object(self) -> tuple[str, int] | None:
        """Key and place of the array of rows in the object that begins here; None when it has none, so that it is a row itself."""
        while True:
            try:
                return self._find_rows()
            except RecursionError:
                return None
            except (ValueError, IndexError):  # not JSON, or the window ends here
                if self._ended or len(self._text) - self._at > MAX_LINE:
                    return None
            self._fill()

    def _find_rows(self) -> tuple[str, int] | None:
        at, empty = self._at + 1, ""
        keys: set[str] = set()
        while True:
            key, at = _DECODER.raw_decode(self._text, _skip(self._text, at))
            at = _skip(self._text, at)
            if self._text[at] != ":":
                return None
            at = _skip(self._text, at + 1)
            if key in CONTAINERS and _ROWS.match(self._text, at):
                if empty:
                    self._refuse_second(empty, key)
                return key, at + 1
            value, at = _DECODER.raw_decode(self._text, at)
            keys.add(key)
            empty = key if key in CONTAINERS and value == [] else empty
            at = _skip(self._text, at)
            if self._text[at] != ",":
                break
            at += 1
        if empty and keys <= set(CONTAINERS):
            broken(self._path, f"the array under '{empty}' is empty", "make the file again")
        return None

    def _end_object(self, name: str) -> None:
        """Past the end of an object whose rows have been read; another array of rows in it is refused."""
        while (sign := self.peek()) == ",":
            self._at += 1
            self.peek()
            key = self._value()[1]
            if self.peek() != ":":
                break
            self._at += 1
            self.peek()
            if key in CONTAINERS and self._begins_rows():
                self._refuse_second(name, key)
            self._value()
        if sign != "}":
            self._refuse_end(sign, "'}'")
        self._at += 1

    def _begins_rows(self) -> bool:
        while len(self._text) - self._at < HEAD and not self._ended:
            self._fill()
        return bool(_ROWS.match(self._text, self._at)) or self._text.startswith("[]", self._at)

    def _refuse_second(self, first: str, second: str) -> NoReturn:
        both = f"the object holds rows under '{first}' and under '{second}'"
        broken(self._path, both, "write each of them to a file of its own, and name the one to read")

    def _refuse_end(self, sign: str, due: str) -> NoReturn:
        what = "the file ends" if not sign else f"{sign!r} stands where {due} should"
        broken(self._path, f"{what} after row {self._number}", "the copy or download was cut or damaged: get the file again")

    def _next_item(self) -> bool:
        """Past the comma to the next item, or False past the closing bracket."""
        sign = self.peek()
        if sign not in (",", "]"):
            self._refuse_end(sign, "',' or ']'")
        self._at += 1
        if sign == "," and self.peek() == "]":
            broken(self._path, f"a comma follows the last row ({self._number})", "remove the comma before ]")
        return sign == ","


def _skip(text: str, at: int) -> int:
    """The position of the next character that is no blank."""
    match = _NOT_BLANK.search(text, at)
    return match.start() if match else len(text)


def csv_rows(path: Path, *, tabs: bool) -> Rows:
    """Rows under the header line, by column name; cells that hold JSON lists or objects are decoded. Memory: one row."""
    csv.field_size_limit(MAX_CELL)
    with damage(path), open_bytes(path) as stream:
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        header_line = lines.readline()
        separator = "\t" if tabs else max(",;\t", key=header_line.count)
        header = next(csv.reader([header_line], delimiter=separator))
        if len(set(header)) < len(header) or not all(name.strip() for name in header):
            broken(path, f"the header line has empty or repeated names: {header}", "give every column a name of its own in the first line")
        reader = csv.reader(lines, delimiter=separator, strict=True)
        start = 2
        try:
            for cells in reader:
                if cells:
                    yield start, _csv_row(header, cells)
                start = reader.line_num + 2
        except csv.Error as error:
            broken(path, f"line {start}: {error}", 'a quote is opened and not closed, or a cell holds a stray quote: write it doubled ("")')


def _csv_row(header: list[str], cells: list[str]) -> dict[str, Any] | BadRow:
    if [cell.removeprefix("\ufeff") for cell in cells] == header:
        return BadRow("repeats the header line", "files were joined: remove the headers of all but the first", ",".join(cells))
    if len(cells) != len(header):
        fix = "quote cells that hold the separator or a line break"
        return BadRow(f"{len(cells)} cells under {len(header)} columns", fix, ",".join(cells))
    for cell in cells:
        if not cell.isascii() and any("\udc80" <= character <= "\udcff" for character in cell):
            raw = cell.encode("utf-8", "surrogateescape")
            try:
                raw.decode()
            except UnicodeDecodeError as error:
                return encoding_problem(raw, error)
    return {name: _cell(name, cell) for name, cell in zip(header, cells, strict=True)}


def _cell(name: str, cell: str) -> Any:
    """The cell; empty is null; JSON in a column that holds lists is decoded (a prompt only when it is a list of messages)."""
    if not cell:
        return None
    if name not in STRUCTURED + CONVERSATIONAL or cell.lstrip()[:1] not in ("[", "{"):
        return cell
    try:
        value = _DECODER.decode(cell)
    except ValueError:
        return cell
    turns = isinstance(value, list) and value and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value)
    return value if name in STRUCTURED or turns else cell
