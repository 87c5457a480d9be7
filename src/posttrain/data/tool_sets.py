"""Demonstrations of tool use and the cases of a suite, out of BFCL's files, split by function.

:func:`split_functions` cuts the rows in two so that no function, and no question that reads nearly alike, is in both parts.
:func:`build_tool_sets` makes demonstrations from one part and suite cases from the other. It is a pure function of the files and the seed;
the shipped ``recipes/data/tools-bfcl.jsonl.gz`` and ``suites/tools-bfcl.jsonl`` are ``write_tool_sets(build_tool_sets(folder), ...)``.

What a demonstration is: the question, the functions, and the calls that the published answers ask for, several at once where the row is
parallel. A part of the rows that offer one function get up to three more from the same side that have nothing to do with the question,
so that choosing is learnt. Where no function fits, the answer is a sentence.
"""

import hashlib
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.data.bfcl import BfclRow, Signature, read_bfcl, right_calls
from posttrain.data.finops import estimate_tokens, lines, write_gzip
from posttrain.data.leakage import contamination
from posttrain.data.words import words
from posttrain.data.writing import record_to_row
from posttrain.data.wrong_calls import no_tool_answer, wrong_calls
from posttrain.errors import ConfigError
from posttrain.records import Demonstration, Message, PreferencePair

SEED = 17
SUITE = "tools-bfcl"
CASES: Mapping[str, int] = {"simple_python": 30, "multiple": 20, "parallel": 15, "irrelevance": 20, "live_simple": 10}
"""Categories read, and the number of suite cases of each."""
SLICES: Mapping[str, str] = {"simple_python": "simple"}
"""Slices are named after their category, but for these."""
MAX_DEMONSTRATIONS = 400
MAX_TOKENS = 480  # estimated tokens of functions and question in a demonstration
MAX_CASE_TOKENS = 420
CASES_PER_FUNCTION = 2
MORE_FUNCTIONS = (0, 0, 1, 2, 3)  # drawn from: how many functions a row with a single one gets in addition
NEAR_QUESTION = 0.6  # Jaccard similarity of the words of two questions that keeps them on one side
COMMON_WORDS = frozenset(
    {"calculate", "find", "from", "given", "have", "need", "please", "that", "this", "using", "want", "what", "which", "with"}
)


@dataclass(frozen=True, slots=True)
class ToolSets:
    """Demonstrations, right against wrong calls for the same rows, suite cases (JSON objects), counts of everything kept and left out."""

    demonstrations: list[Demonstration]
    pairs: list[PreferencePair]
    cases: list[dict[str, Any]]
    counts: dict[str, int]


def build_tool_sets(folder: str | Path, *, seed: int = SEED) -> ToolSets:
    """Read the categories of :data:`CASES` (``BFCL_v4_<category>.json``, or with ``.gz``) and make both files' contents.

    Function names are written with underscores for dots, so that any endpoint takes them. Raises DataError for a broken file.
    """
    rows = [row for category in CASES for row in read_bfcl(Path(folder) / f"BFCL_v4_{category}.json", dots="underscore")]
    first, second = split_functions(rows, seed)
    counts: Counter[str] = Counter(rows=len(rows), rows_for_training=len(first), rows_for_the_suite=len(second))
    cases = [_case(row) for row in _choose_cases(second, seed)]
    texts = [(case["id"], case["messages"][-1]["content"]) for case in cases]
    training = _training_rows(first, seed, counts)
    demonstrations = [demonstration(row, random.Random(f"{seed}:answer:{row.id}")) for row in training]
    leaked = contamination(demonstrations, {SUITE: texts}).contaminated_records
    kept = [position for position in range(len(training)) if position not in leaked][:MAX_DEMONSTRATIONS]
    counts.update(left_out_contaminated=len(leaked), demonstrations=len(kept), cases=len(cases))
    counts.update(f"demonstrations_{training[position].category}" for position in kept)
    counts.update(f"cases_{case['slices'][0]}" for case in cases)
    pairs = [pair for position in kept for pair in wrong_calls(training[position], seed=seed)]
    return ToolSets([demonstrations[position] for position in kept], pairs, cases, dict(counts))


def write_tool_sets(sets: ToolSets, train: str | Path, suite: str | Path) -> None:
    """Write the demonstrations (JSON Lines, gzip without a time stamp) and the suite's cases (JSON Lines)."""
    write_gzip(Path(train), lines([record_to_row(one) for one in sets.demonstrations]))
    Path(suite).write_text(lines(sets.cases), encoding="utf-8")


# ---- splitting ------------------------------------------------------------------------------------------------------------


def split_functions(rows: Sequence[BfclRow], seed: int) -> tuple[list[BfclRow], list[BfclRow]]:
    """Two halves without a common function, offered or called, and without questions that read nearly alike, each in the order given.

    Names are compared by letters and digits, without case. Rows that hang together stay together; the groups, the largest first, go where
    they leave the halves most equal in every category.
    """
    totals = Counter(row.category for row in rows)
    sides: tuple[list[int], list[int]] = ([], [])
    held = (Counter[str](), Counter[str]())
    groups = sorted(_groups(rows), key=lambda group: (-len(group), min(_draw(rows[place].id, seed) for place in group)))
    for group in groups:
        new = Counter(rows[place].category for place in group)

        def imbalance(side: int, new: Counter[str] = new) -> float:
            return sum(abs(held[side][name] + new[name] - held[1 - side][name]) / total for name, total in totals.items())

        chosen = 0 if imbalance(0) <= imbalance(1) else 1
        sides[chosen].extend(group)
        held[chosen].update(new)
    first, second = ([rows[place] for place in sorted(side)] for side in sides)
    return first, second


def _groups(rows: Sequence[BfclRow]) -> list[list[int]]:
    """Positions of rows that share a function or a near-duplicate question, directly or through others."""
    owner = list(range(len(rows)))

    def find(place: int) -> int:
        while owner[place] != place:
            place = owner[place]
        return place

    holders: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        for tool in row.tools:
            holders[re.sub(r"[\W_]", "", tool["function"]["name"]).casefold()].append(place)
    joined = [(places[0], other) for places in holders.values() for other in places[1:]]
    for a, b in [*joined, *_alike([frozenset(words(row.question)) for row in rows])]:
        owner[find(b)] = find(a)
    groups: dict[int, list[int]] = defaultdict(list)
    for place in range(len(rows)):
        groups[find(place)].append(place)
    return list(groups.values())


def _alike(texts: Sequence[frozenset[str]]) -> Iterable[tuple[int, int]]:
    """Pairs of texts whose words have a Jaccard similarity of at least :data:`NEAR_QUESTION`."""
    for a, left in enumerate(texts):
        for b in range(a):
            common = len(left & texts[b])
            if common and common >= NEAR_QUESTION * (len(left) + len(texts[b]) - common):
                yield b, a


def _draw(key: str, seed: int) -> str:
    """A seeded order that does not depend on the order of the file."""
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()


# ---- demonstrations -------------------------------------------------------------------------------------------------------


def _training_rows(rows: Sequence[BfclRow], seed: int, counts: Counter[str]) -> list[BfclRow]:
    """The rows that can be answered and are short, in a drawn order, some with more functions, long ones with fewer."""
    pool = sorted({_name(tool): tool for row in rows for tool in row.tools}.items())
    functions = [tool for _, tool in pool if _tokens([tool]) <= MAX_TOKENS // 3]
    found = []
    for row in sorted(rows, key=lambda row: _draw(row.id, seed)):
        rng = random.Random(f"{seed}:{row.id}")
        wider = add_functions(row, functions, rng.choice(MORE_FUNCTIONS), rng) if len(row.tools) == 1 else row
        if not row.answerable:
            counts["left_out_no_right_answer"] += 1
        elif any(message.role != "user" for message in row.messages):
            counts["left_out_system_prompt"] += 1
        elif _length(short := _shortened(row)) > MAX_TOKENS:
            counts["left_out_long"] += 1
        else:
            found.append(wider if _length(wider) <= MAX_TOKENS else short)
    return found


def demonstration(row: BfclRow, rng: random.Random) -> Demonstration:
    """The row with a right answer: the needed calls, or a sentence where none is needed."""
    calls = right_calls(row)
    answer = Message("assistant", tool_calls=calls) if calls else Message("assistant", no_tool_answer(row, rng))
    about = {"category": row.category, "num_functions": len(row.tools)}
    return Demonstration((*row.messages, answer), row.tools, f"bfcl-{row.id}", "bfcl", about)


def add_functions(row: BfclRow, functions: Sequence[Signature], count: int, rng: random.Random) -> BfclRow:
    """The row with up to ``count`` more functions in drawn places: such as share no telling word with the question or its own functions."""
    own = _telling(row.question) | {word for tool in row.tools for word in _telling(_about(tool))}
    tools = [*row.tools]
    for tool in rng.sample(functions, len(functions)):
        if len(tools) >= len(row.tools) + count:
            break
        if not own & _telling(_about(tool)):
            tools.insert(rng.randrange(len(tools) + 1), tool)
    return replace(row, tools=tuple(tools))


def _shortened(row: BfclRow) -> BfclRow:
    """The row within :data:`MAX_TOKENS`, if leaving out functions that are not needed is enough."""
    tools, needed = [*row.tools], {name for one in row.needed or () for name in one}
    spare = [tool for tool in tools if _name(tool) not in needed]
    while len(spare) > 1 and _length(replace(row, tools=tuple(tools))) > MAX_TOKENS:
        tools.remove(spare.pop())
    return replace(row, tools=tuple(tools))


def _name(tool: Signature) -> str:
    return str(tool["function"]["name"])


def _about(tool: Signature) -> str:
    return f"{re.sub(r'[_.]', ' ', _name(tool))} {tool['function']['description']}"


def _telling(text: str) -> frozenset[str]:
    """Beginnings of the words of four letters and more: ``calculating`` and ``calculate`` are one."""
    return frozenset(word[:6] for word in words(text) if len(word) >= 4 and word not in COMMON_WORDS)


def _tokens(tools: Sequence[Signature]) -> int:
    return sum(estimate_tokens(json.dumps(tool["function"], separators=(",", ":"))) for tool in tools)


def _length(row: BfclRow) -> int:
    return _tokens(row.tools) + estimate_tokens(row.question)


# ---- suite ----------------------------------------------------------------------------------------------------------------


def _choose_cases(rows: Sequence[BfclRow], seed: int) -> list[BfclRow]:
    """The wanted number of short rows of every category, at most :data:`CASES_PER_FUNCTION` with the same first function."""
    chosen: list[BfclRow] = []
    for category, wanted in CASES.items():
        taken: Counter[str] = Counter()
        mine: list[BfclRow] = []
        for row in sorted((row for row in rows if row.category == category), key=lambda row: _draw(row.id, seed)):
            fits = row.answerable and len(row.messages) == 1 and _length(row) <= MAX_CASE_TOKENS
            if fits and len(mine) < wanted and taken[_group(row)] < CASES_PER_FUNCTION:
                taken[_group(row)] += 1
                mine.append(row)
        if len(mine) < wanted:
            raise ConfigError(f"category '{category}' has {len(mine)} cases to choose, {wanted} are wanted", hint="give the whole file")
        chosen += mine
    return chosen


def _group(row: BfclRow) -> str:
    """The function a row is about: the first needed, or the first offered."""
    return next(iter(row.needed[0])) if row.needed else _name(row.tools[0])


def _case(row: BfclRow) -> dict[str, Any]:
    return {
        "id": f"bfcl-{row.id}",
        "messages": [{"role": message.role, "content": message.content} for message in row.messages],
        "tools": list(row.tools),
        "expected": row.expected,
        "slices": [SLICES.get(row.category, row.category)],
        "group": _group(row),
        "metadata": {"source": "bfcl"},
    }
