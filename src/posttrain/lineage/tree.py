"""A node and what it was made from as lines of a tree."""

from typing import Any

from posttrain.lineage.nodes import Node
from posttrain.lineage.store import LineageStore

SHOWN_FIELDS = ("version", "licence", "method", "num_rows", "verdict", "hash", "seed", "commit", "path")


def render_tree(store: LineageStore, node_id: str) -> list[str]:
    """The node on the first line, its parents below it. A node met before is shown once in full and then marked ``(above)``."""
    root = store.get(node_id)
    nodes = {node.id: node for node in [root, *store.ancestors(root.id)]}
    lines = [_title(root)]
    _grow(nodes, root, "", {root.id}, lines)
    return lines


def _grow(nodes: dict[str, Node], node: Node, indent: str, seen: set[str], lines: list[str]) -> None:
    for position, parent in enumerate(node.parents):
        last = position == len(node.parents) - 1
        known = parent in seen
        branch, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
        lines.append(f"{indent}{branch}{_title(nodes[parent])}" + (" (above)" if known and nodes[parent].parents else ""))
        if not known:
            seen.add(parent)
            _grow(nodes, nodes[parent], indent + below, seen, lines)


def _title(node: Node) -> str:
    facts = [f"{key} {_short(node.content[key])}" for key in SHOWN_FIELDS if node.content.get(key) not in (None, "", node.name)]
    facts += [f"{len(node.files)} file{'s' if len(node.files) > 1 else ''}"] if node.files else []
    return "  ".join(part for part in (node.id, node.name, ", ".join(facts)) if part)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def node_record(node: Node) -> dict[str, Any]:
    """A node as plain JSON types."""
    return {
        "id": node.id,
        "kind": node.kind,
        "created": node.created,
        "content": dict(node.content),
        "parents": list(node.parents),
        "files": [{"path": file.path, "sha256": file.sha256, "num_bytes": file.num_bytes} for file in node.files],
    }
