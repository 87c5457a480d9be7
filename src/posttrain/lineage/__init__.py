"""What was made from what: artefact ids, provenance, consent, diffs; run loggers."""

from posttrain.lineage.diff import FieldChange, LineageDiff, NodeChange, render_diff
from posttrain.lineage.environment import code_record, environment_record, source_hash
from posttrain.lineage.loggers import JsonlLogger, RunLogger, SafeLoggers, build_loggers, check_loggers, loggers
from posttrain.lineage.nodes import FileRecord, Node, Problem
from posttrain.lineage.rules import KINDS
from posttrain.lineage.store import DEFAULT_STORE, LineageStore
from posttrain.lineage.tree import node_record, render_tree
from posttrain.lineage.verify import Verification

__all__ = [
    "DEFAULT_STORE",
    "KINDS",
    "FieldChange",
    "FileRecord",
    "JsonlLogger",
    "LineageDiff",
    "LineageStore",
    "Node",
    "NodeChange",
    "Problem",
    "RunLogger",
    "SafeLoggers",
    "Verification",
    "build_loggers",
    "check_loggers",
    "code_record",
    "environment_record",
    "loggers",
    "node_record",
    "render_diff",
    "render_tree",
    "source_hash",
]
