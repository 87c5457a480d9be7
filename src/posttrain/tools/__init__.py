"""Tool contracts: what a model may call, who may call it, at what cost, and the record of every call."""

from posttrain.tools.access import Budget, Caller, Spending
from posttrain.tools.argument_types import Identifier, Line, Within
from posttrain.tools.arguments import check_arguments, describe
from posttrain.tools.audit import AuditLog, AuditReport, audit_lines, read_audit, verify_audit
from posttrain.tools.failures import InvalidArguments, ToolError, ToolUnavailable
from posttrain.tools.files import load_tools
from posttrain.tools.functions import tool
from posttrain.tools.mcp_tools import McpTools
from posttrain.tools.schema import check_parameters
from posttrain.tools.sources import Opened, call_once, open_tools, tool_lines
from posttrain.tools.tool import Tool
from posttrain.tools.toolbox import Toolbox
from posttrain.tools.versions import check_versions, read_record, record_of, tool_changes

__all__ = [
    "AuditLog",
    "AuditReport",
    "Budget",
    "Caller",
    "Identifier",
    "InvalidArguments",
    "Line",
    "McpTools",
    "Opened",
    "Spending",
    "Tool",
    "ToolError",
    "ToolUnavailable",
    "Toolbox",
    "Within",
    "audit_lines",
    "call_once",
    "check_arguments",
    "check_parameters",
    "check_versions",
    "describe",
    "load_tools",
    "open_tools",
    "read_audit",
    "read_record",
    "record_of",
    "tool",
    "tool_changes",
    "tool_lines",
    "verify_audit",
]
