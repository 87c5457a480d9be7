"""Which machine a latency was measured on."""

import os
import platform
from functools import cache
from pathlib import Path


@cache
def machine_name() -> str:
    """CPU model, usable cores and accelerators, such as ``Intel(R) Xeon(R) CPU @ 2.20GHz, 2 cores``."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    accelerators = sorted(path.read_text().split("Model:")[1].splitlines()[0].strip() for path in _nvidia_cards())
    return ", ".join([model, f"{cores} cores", *accelerators])


def _nvidia_cards() -> list[Path]:
    root = Path("/proc/driver/nvidia/gpus")
    cards = [card / "information" for card in root.iterdir()] if root.is_dir() else []
    return [card for card in cards if card.is_file() and "Model:" in card.read_text()]
