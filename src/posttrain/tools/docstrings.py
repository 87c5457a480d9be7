"""What a docstring says about a function and each of its arguments; Google, NumPy and Sphinx styles."""

import inspect
import re

_SECTION = re.compile(
    r"(args|arguments|parameters|params|other parameters|keyword args|keyword arguments|returns?|yields?|raises|notes?|examples?|"
    r"references|see also|attributes|warnings?|warns|todo)\s*:?",
    re.IGNORECASE,
)
_ARGUMENTS = {"args", "arguments", "parameters", "params", "other parameters", "keyword args", "keyword arguments"}
_SPHINX = re.compile(r":(?P<field>\w+)(?P<rest>[^:]*):\s*(?P<text>.*)")
_GOOGLE = re.compile(r"(?P<names>\*{0,2}\w+)\s*(\(.*?\))?\s*:\s*(?P<text>.*)")
_NUMPY = re.compile(r"(?P<names>\*{0,2}\w+(\s*,\s*\*{0,2}\w+)*)\s*(:.*)?(?P<text>)")


def read_docstring(text: str | None) -> tuple[str, dict[str, str]]:
    """The description (all before the first section, paragraphs kept) and what is said about each argument."""
    lines = inspect.cleandoc(text or "").splitlines()
    description: list[str] = []
    arguments: dict[str, str] = {}
    at = 0
    while at < len(lines):
        end = at + 1
        section = _section(lines, at)
        if section is not None:
            name, underlined = section
            end += underlined
            start = end
            while end < len(lines) and _section(lines, end) is None and (underlined or not lines[end] or lines[end][0].isspace()):
                end += 1
            if name in _ARGUMENTS:
                arguments |= _read_arguments(lines[start:end], _NUMPY if underlined else _GOOGLE)
        elif _SPHINX.match(lines[at]):
            while end < len(lines) and lines[end].startswith((" ", "\t")):
                end += 1
            arguments |= _read_sphinx(lines[at:end])
        else:
            description.append(lines[at])
        at = end
    return _flow(description), arguments


def _section(lines: list[str], at: int) -> tuple[str, bool] | None:
    """(section name, whether a line of dashes follows) when a section starts at this line."""
    line = lines[at].rstrip()
    if not line or line[0].isspace() or not _SECTION.fullmatch(line):
        return None
    below = lines[at + 1] if at + 1 < len(lines) else ""
    underlined = re.fullmatch(r"-{3,}\s*", below) is not None
    is_header = underlined or (line.endswith(":") and below.startswith((" ", "\t")))
    return (line.rstrip(": ").lower(), underlined) if is_header else None


def _read_arguments(lines: list[str], head: re.Pattern[str]) -> dict[str, str]:
    """``head`` matches the line that names arguments; deeper lines below it go on with the text."""
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in inspect.cleandoc("\n".join(["", *lines])).splitlines():
        if line and not line[0].isspace():
            match = head.fullmatch(line)
            names = [name.strip().lstrip("*") for name in match["names"].split(",")] if match else []
            found |= {name: [match["text"] or ""] for name in names if match}
        else:
            for name in names:
                found[name].append(line)
    return {name: _flow(text).replace("\n", " ") for name, text in found.items()}


def _read_sphinx(lines: list[str]) -> dict[str, str]:
    match = _SPHINX.match(lines[0])
    if match is None or match["field"] not in ("param", "parameter", "arg", "argument", "key", "keyword") or not match["rest"].split():
        return {}
    return {match["rest"].split()[-1].lstrip("*"): _flow([match["text"], *lines[1:]]).replace("\n", " ")}


def _flow(lines: list[str]) -> str:
    """Lines as running text; a blank line starts a new paragraph."""
    paragraphs = "\n".join(line.strip() for line in lines).strip().split("\n\n")
    return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())
