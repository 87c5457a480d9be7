"""Retrieval: documents cut into passages with exact spans, an index pinned by hash, the retriever as a tool, citations that are checked."""

from posttrain.tools.retrieval.backend import Embed
from posttrain.tools.retrieval.backends import BACKENDS, load_embed
from posttrain.tools.retrieval.citations import (
    Citation,
    CitationCheck,
    Claim,
    check_citations,
    find_citations,
    find_claims,
    retrieved_spans,
)
from posttrain.tools.retrieval.documents import read_documents
from posttrain.tools.retrieval.index import Index, build_index, open_index, verify_index
from posttrain.tools.retrieval.passages import Document, Hit, Passage
from posttrain.tools.retrieval.search_tool import render_hits, search_tool

__all__ = [
    "BACKENDS",
    "Citation",
    "CitationCheck",
    "Claim",
    "Document",
    "Embed",
    "Hit",
    "Index",
    "Passage",
    "build_index",
    "check_citations",
    "find_citations",
    "find_claims",
    "load_embed",
    "open_index",
    "read_documents",
    "render_hits",
    "retrieved_spans",
    "search_tool",
    "verify_index",
]
