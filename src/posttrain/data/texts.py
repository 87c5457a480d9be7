"""Rows of text files: JSON Lines, JSON (streamed, however large) and CSV."""

import codecs
import csv
import io
import json
import re
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
_NOT_BLANK = re.compile(r"[^ \t\r\n]")


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
            if number == 1:
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
    """The objects of a JSON array, of an array under a key such as "data", or objects one after another. Memory: one row."""
    with damage(path), open_bytes(path) as stream:
        scan = _Scanner(stream, path)
        scan.enter_array()
        number = 0
        while scan.peek():
            number += 1
            raw, value = scan.value(number)
            bad = BadRow(f"a row must be an object, found {type(value).__name__}", 'write {"column": value, ...}', raw)
            yield number, value if isinstance(value, dict) else bad
            if scan.inside and not scan.next_item(number):
                return


class _Scanner:
    """A window over JSON text: decodes one value at a time and forgets what lies behind it."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self._path = path
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._ended = False
        self.inside = False  # between the brackets of an array

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

    def value(self, number: int) -> tuple[str, Any]:
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
                    self._refuse(number, error)
            self._fill()

    def _refuse(self, number: int, error: ValueError | RecursionError) -> NoReturn:
        cut = self._ended and isinstance(error, json.JSONDecodeError) and error.pos >= len(self._text.rstrip()) - 1
        if cut or "Unterminated string" in str(error):
            broken(self._path, f"the file ends in the middle of row {number}", "the copy or download was cut: get the file again")
        seen = self._text[self._at : self._at + 60]
        broken(self._path, f"row {number} is not valid JSON: {getattr(error, 'msg', error)}, in {seen!r}")

    def enter_array(self) -> None:
        """Go to the first row: into the array at the top, or into the one under a key of :data:`CONTAINERS`."""
        if self.peek() == "[":
            self._at += 1
            self.inside = self.peek() != "]"
            if not self.inside:
                broken(self._path, "the array is empty", "make the file again")
            return
        rows = self._container()
        if rows is not None:
            self._at, self.inside = rows, True

    def _container(self) -> int | None:
        """Where the rows of an object's array begin, when its key stands in the first window; None when it holds no such array."""
        at = self._at + 1
        try:
            while True:
                key, at = _DECODER.raw_decode(self._text, _skip(self._text, at))
                at = _skip(self._text, at)
                if self._text[at] != ":":
                    return None
                at = _skip(self._text, at + 1)
                if key in CONTAINERS and _ROWS.match(self._text, at):
                    return at + 1
                at = _skip(self._text, _DECODER.raw_decode(self._text, at)[1])
                if self._text[at] != ",":
                    return None
                at += 1
        except (ValueError, IndexError, RecursionError):
            return None

    def next_item(self, number: int) -> bool:
        """Past the comma to the next item, or False at the closing bracket."""
        sign = self.peek()
        if sign not in (",", "]"):
            what = "the file ends" if not sign else f"{sign!r} stands where ',' or ']' should"
            broken(self._path, f"{what} after row {number}", "the copy or download was cut or damaged: get the file again")
        self._at += 1
        if sign == "," and self.peek() == "]":
            broken(self._path, f"a comma follows the last row ({number})", "remove the comma before ]")
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
