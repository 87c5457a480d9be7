"""Template, tokenizer and supervision masks under one contract."""

from posttrain.chat.call_format import CallFormat, ParsedTurn
from posttrain.chat.contract import CONTRACT_FILE, ChatContract, load_record, template_text
from posttrain.chat.golden import describe_difference
from posttrain.chat.mask_report import (
    MaskReport,
    RowNote,
    demonstrations_of,
    mask_report,
    report_lines,
    sample_segments,
    show_sample,
    unprinted,
)
from posttrain.chat.supervision import MASK_KINDS, MaskKind

__all__ = [
    "CONTRACT_FILE",
    "MASK_KINDS",
    "CallFormat",
    "ChatContract",
    "MaskKind",
    "MaskReport",
    "ParsedTurn",
    "RowNote",
    "demonstrations_of",
    "describe_difference",
    "load_record",
    "mask_report",
    "report_lines",
    "sample_segments",
    "show_sample",
    "template_text",
    "unprinted",
]
