"""Tool contracts: what a model may call, who may call it, at what cost, and the record of every call."""

from posttrain.tools.access import Budget, Caller, Spending
from posttrain.tools.audit import AuditLog, AuditReport, read_audit, verify_audit
from posttrain.tools.failures import InvalidArguments, ToolError, ToolUnavailable
from posttrain.tools.files import load_tools
from posttrain.tools.functions import tool
from posttrain.tools.tool import Tool
from posttrain.tools.toolbox import Toolbox
from posttrain.tools.versions import check_versions, record_of, tool_changes

__all__ = [
    "AuditLog",
    "AuditReport",
    "Budget",
    "Caller",
    "InvalidArguments",
    "Spending",
    "Tool",
    "ToolError",
    "ToolUnavailable",
    "Toolbox",
    "check_versions",
    "load_tools",
    "read_audit",
    "record_of",
    "tool",
    "tool_changes",
    "verify_audit",
]
