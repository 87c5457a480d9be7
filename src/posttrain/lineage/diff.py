"""What differs between two artefacts: everything each was made from, compared field by field."""

import difflib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.lineage.nodes import Node
from posttrain.lineage.rules import KINDS

ABSENT = "(absent)"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One dotted field whose value differs; ``before`` or ``after`` is "(absent)" when only one side has it."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class NodeChange:
    """One artefact that is only in the first, only in the second, or in both with other content."""

    kind: str
    name: str
    what: Literal["removed", "added", "changed"]
    before: str
    after: str
    fields: tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True)
class LineageDiff:
    """``changes`` in the order of the kinds; ``num_shared`` artefacts are the same on both sides."""

    before: str
    after: str
    changes: tuple[NodeChange, ...]
    num_shared: int


def diff_histories(first: Sequence[Node], second: Sequence[Node]) -> LineageDiff:
    """Compare two histories, each an artefact followed by its ancestors. Artefacts of one kind are paired by name, then in order."""
    left = {node.id: node for node in first}
    right = {node.id: node for node in second}
    only_left = _by_kind([node for node in first if node.id not in right])
    only_right = _by_kind([node for node in second if node.id not in left])
    changes = [
        change for kind in sorted({*only_left, *only_right}, key=list(KINDS).index) for change in _pair(only_left[kind], only_right[kind])
    ]
    return LineageDiff(first[0].id, second[0].id, tuple(changes), len(left.keys() & right.keys()))


def _by_kind(nodes: Sequence[Node]) -> defaultdict[str, list[Node]]:
    groups: defaultdict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        groups[node.kind].append(node)
    return groups


def _pair(before: Sequence[Node], after: Sequence[Node]) -> list[NodeChange]:
    left, right = list(before), list(after)
    pairs = []
    for node in before:
        same = next((other for other in right if other.name == node.name), None)
        if same is not None:
            pairs.append((node, same))
            left.remove(node)
            right.remove(same)
    pairs += list(zip(left, right, strict=False))
    matched = min(len(left), len(right))
    changes = [_changed(a, b) for a, b in pairs]
    changes += [NodeChange(node.kind, node.name, "removed", node.id, "", ()) for node in left[matched:]]
    changes += [NodeChange(node.kind, node.name, "added", "", node.id, ()) for node in right[matched:]]
    return changes


def _changed(before: Node, after: Node) -> NodeChange:
    left, right = _flatten(before.content), _flatten(after.content)
    fields = [
        FieldChange(field, left.get(field, ABSENT), right.get(field, ABSENT))
        for field in dict.fromkeys([*left, *right])
        if left.get(field, ABSENT) != right.get(field, ABSENT)
    ]
    old_files = {file.sha256: file.path for file in before.files}
    new_files = {file.sha256: file.path for file in after.files}
    for sha256, path in old_files.items():
        if sha256 not in new_files:
            fields.append(FieldChange(f"file {path}", sha256[:12], ABSENT))
    for sha256, path in new_files.items():
        if sha256 not in old_files:
            fields.append(FieldChange(f"file {path}", ABSENT, sha256[:12]))
    return NodeChange(after.kind, after.name or before.name, "changed", before.id, after.id, tuple(fields))


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted path; lists are indexed by position."""
    if isinstance(value, Mapping) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value:
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {prefix: value}
    return {path: leaf for key, item in items for path, leaf in _flatten(item, f"{prefix}.{key}" if prefix else key).items()}


def render_diff(diff: LineageDiff) -> list[str]:
    """Lines for people. Texts of several lines are shown as a unified diff; a node whose content is equal differs in its sources."""
    lines = [f"- {diff.before}", f"+ {diff.after}"]
    for change in diff.changes:
        title = f"{change.kind} {change.name}".rstrip()
        if change.what != "changed":
            lines.append(f"{title}: only in {'the first' if change.what == 'removed' else 'the second'} ({change.before or change.after})")
            continue
        lines.append(f"{title}:" if change.fields else f"{title}: equal itself, made from other things")
        for field in change.fields:
            lines += _render_field(field)
    if not diff.changes:
        lines.append("no difference")
    lines.append(f"the same on both sides: {diff.num_shared} artefacts")
    return lines


def _render_field(change: FieldChange) -> list[str]:
    before, after = change.before, change.after
    if isinstance(before, str) and isinstance(after, str) and "\n" in before + after:
        texts = difflib.unified_diff(before.split("\n"), after.split("\n"), lineterm="", n=1)
        return [f"  {change.field}:", *(f"    {line}" for line in texts if not line.startswith(("---", "+++")))]
    return [f"  {change.field}: {_short(before)} -> {_short(after)}"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."
