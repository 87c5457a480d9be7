"""Where posttrain keeps what it fetched or converted once."""

import json
import os
from pathlib import Path


def model_cache() -> Path:
    """Where ``posttrain models add`` keeps models: ``$POSTTRAIN_HOME/models``, else ``~/.cache/posttrain/models``."""
    return _home() / "models"


def model_folder(name_or_path: str | Path) -> Path:
    """The folder itself, or a cached model's of that name."""
    folder = Path(name_or_path)
    cached = model_cache() / folder
    return cached if not folder.is_dir() and cached.is_dir() else folder


def context_length(model: Path) -> int | None:
    """Positions a model folder's model was built for; None where it holds no model (a tokenizer alone) or its config does not say."""
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    value = config.get("text_config", config).get("max_position_embeddings")
    return int(value) if value else None


def kernel_cache() -> Path:
    """Where what a C++ compiler made once is kept: ``kernels`` beside the models."""
    return _home() / "kernels"


def _home() -> Path:
    home = os.environ.get("POSTTRAIN_HOME")
    return Path(home) if home else Path.home() / ".cache" / "posttrain"
