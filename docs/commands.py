"""Write docs/commands.md from the commands' own help; ``--check`` fails when the file is not what the code says."""

import os
import subprocess
import sys
from pathlib import Path

from posttrain.cli.main import COMMANDS

PAGE = Path(__file__).with_name("commands.md")


def help_text(*command: str) -> str:
    environment = os.environ | {"COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"}
    environment.pop("FORCE_COLOR", None)
    done = subprocess.run(
        [sys.executable, "-m", "posttrain", *command, "--help"], capture_output=True, text=True, env=environment, check=True
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def page() -> str:
    parts = ["# Commands", "", "Written by `make docs` from each command's `--help`.", ""]
    for command in ((), *((name,) for name in COMMANDS)):
        parts += [f"## posttrain {' '.join(command)}".rstrip(), "", "```text", help_text(*command), "```", ""]
    return "\n".join(parts)


def main() -> None:
    text = page()
    if "--check" not in sys.argv:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit("docs/commands.md is not what the commands' help says: run `make docs`")


if __name__ == "__main__":
    main()
