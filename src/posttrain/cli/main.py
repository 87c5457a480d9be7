"""The `posttrain` command: one file per subcommand, imported only when that subcommand runs."""

import importlib
import sys
from typing import Any

import click
import typer
from typer.core import TyperGroup

from posttrain.errors import PosttrainError

COMMANDS = {
    "init": "Write a recipe, suite, policy and data sample to edit.",
    "run": "Run a recipe from start model to gate and report.",
    "check": "Check data: masks, lengths, truncation, duplicates, contamination.",
    "contract": "Freeze, check and diff the chat contract of a model.",
    "sft": "Supervised fine-tuning, full or LoRA.",
    "generate": "Generate answers for prompts in a file.",
    "chat": "Talk to a model in the terminal.",
    "eval": "Run a suite on a model.",
    "gate": "Judge a candidate's results against a version in service.",
    "suite": "Freeze and check evaluation suites.",
    "lineage": "Show, diff and verify what things were made from.",
    "models": "Add, list, merge and inspect models.",
}


class LazyGroup(TyperGroup):
    """Loads ``posttrain.cli.<name>`` when asked for it, so that ``--help`` starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of :data:`COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The real command when it is about to run; a light stand-in while the top-level help is printed."""
        if cmd_name not in COMMANDS:
            return None
        if ctx.protected_args or ctx.args or not ctx.resilient_parsing and cmd_name in sys.argv[1:]:
            module = importlib.import_module(f"posttrain.cli.{cmd_name.replace('-', '_')}")
            command: click.Command = typer.main.get_command(module.app)
            command.name = cmd_name
            return command
        return click.Command(cmd_name, help=COMMANDS[cmd_name])
