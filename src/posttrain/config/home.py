"""Where posttrain keeps what it fetched or converted once."""

import os
from pathlib import Path


def model_cache() -> Path:
    """Where ``posttrain models add`` keeps models: ``$POSTTRAIN_HOME/models``, else ``~/.cache/posttrain/models``."""
    home = os.environ.get("POSTTRAIN_HOME")
    return (Path(home) if home else Path.home() / ".cache" / "posttrain") / "models"
