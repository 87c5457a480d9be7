"""The command line as a user types it."""

import subprocess
import sys
from pathlib import Path


def posttrain(*arguments: str, cwd: Path, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "posttrain", *arguments], cwd=cwd, capture_output=True, text=True, timeout=timeout)
