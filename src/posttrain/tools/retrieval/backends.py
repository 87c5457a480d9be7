"""The ways of searching by name. A library is imported when an index needs it."""

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
