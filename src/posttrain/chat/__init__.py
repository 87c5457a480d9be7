"""Template, tokenizer and supervision masks under one contract."""

from posttrain.chat.contract import CONTRACT_FILE, ChatContract
from posttrain.chat.supervision import MASK_KINDS, MaskKind

__all__ = ["CONTRACT_FILE", "MASK_KINDS", "ChatContract", "MaskKind"]
