"""The ways of searching by name. A library is imported when an index needs it."""

import importlib
import os
import sys

from posttrain.errors import ConfigError, suggest
from posttrain.tools.retrieval.backend import Backend, Embed

BACKENDS = ("fts5", "tantivy", "dense", "hybrid")
NEED_EMBED = ("dense", "hybrid")


def backend_class(name: str, embed: Embed | None) -> type[Backend]:
    """The class called ``name``. Raises ConfigError for an unknown name, a missing library or a missing ``embed``."""
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend '{name}'", hint=suggest(name, BACKENDS))
    if name in NEED_EMBED and embed is None:
        raise ConfigError(f"backend '{name}' needs an embedding callable", hint="give `embed=`: texts to float32 [text, dimension]")
    if name == "tantivy":
        from posttrain.tools.retrieval.tantivy_index import TantivyIndex

        return TantivyIndex
    if name == "dense":
        from posttrain.tools.retrieval.dense import Dense

        return Dense
    if name == "hybrid":
        from posttrain.tools.retrieval.hybrid import Hybrid

        return Hybrid
    from posttrain.tools.retrieval.fts5 import Fts5

    return Fts5


def load_embed(reference: str | None) -> Embed | None:
    """The callable at ``module:function``, the current folder searched first; None for None. Raises ConfigError."""
    if reference is None:
        return None
    module, _, name = reference.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise ConfigError(f"--embed {reference}: {type(error).__name__}: {error}", hint="write module:function of your own code") from None
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise ConfigError(f"--embed {reference} is a {type(found).__name__}, not a function")
    embed: Embed = found
    return embed
