"""Where posttrain keeps what it fetched or converted once."""

import os
from pathlib import Path


def model_cache() -> Path:
    """Where ``posttrain models add`` keeps models: ``$POSTTRAIN_HOME/models``, else ``~/.cache/posttrain/models``."""
    return _home() / "models"


def kernel_cache() -> Path:
    """Where what a C++ compiler made once is kept: ``kernels`` beside the models."""
    return _home() / "kernels"


def _home() -> Path:
    home = os.environ.get("POSTTRAIN_HOME")
    return Path(home) if home else Path.home() / ".cache" / "posttrain"
