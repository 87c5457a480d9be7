"""The tiny run of tests/invariants serves here too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "invariants"))
