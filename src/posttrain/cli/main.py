"""The `posttrain` command: one file per subcommand, imported only when that subcommand runs."""

import errno
import importlib
import json
import os
import signal
import sys
import traceback
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

import posttrain
from posttrain.errors import ConfigError, PosttrainError, suggest

COMMANDS = {
    "init": "Write a recipe, suite, policy and data sample to edit.",
    "run": "Run a recipe: from a start model to the gate and its report.",
    "check": "Check data: masks, lengths, truncations, duplicates.",
    "contract": "Freeze, check and diff the chat contract of a model.",
    "sft": "Supervised fine-tuning, full or LoRA.",
    "preference": "Preference alignment: DPO and its family, KTO.",
    "preferences": "Preference labels: quality, pairs, adjudication, collection, a judge.",
    "sweep": "A preference stage over beta and learning rate: target gain against drift.",
    "ppo": "Reinforcement learning from a reward model, with the KL brake on.",
    "reward": "Train, evaluate, probe and use reward models.",
    "generate": "Generate answers for the prompts in a file.",
    "chat": "Talk to a model in the terminal.",
    "eval": "Run a suite on a model.",
    "gate": "Judge a candidate's results against the version in service.",
    "advise": "Recommend a training method from the data and the memory at hand.",
    "diagnose": "Name what is wrong with a run, the first lever, and what not to rush into.",
    "drill": "Provoke failures and see that the checks catch them.",
    "tools": "Show, check and call tools; verify the record of calls.",
    "world": "Worlds with tools: look at their tasks, write them as data, act in them.",
    "index": "Build, search and verify an index of documents, for the search tool.",
    "suite": "Freeze, check and show evaluation suites.",
    "lineage": "Show, diff and verify what things were made from.",
    "models": "Add, list, inspect and merge models.",
}


class LazyGroup(TyperGroup):
    """Imports ``posttrain.cli.<name>`` only to run it, so that ``--help`` starts in a fraction of a second."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of :data:`COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A light stand-in that carries the one-line help."""
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The real command, imported now; an unknown name is answered with the nearest known one."""
        name = args[0]
        if name.startswith("-"):
            return super().resolve_command(ctx, args)
        if name not in COMMANDS:
            raise ConfigError(f"unknown command '{name}'", hint=suggest(name, COMMANDS))
        module = importlib.import_module(f"posttrain.cli.{name}")
        entry = getattr(module, "app", None)
        if entry is None:
            entry = typer.Typer(rich_markup_mode=None, add_completion=False)
            entry.command()(getattr(module, name))
        command: Any = typer.main.get_command(entry)
        command.name = name
        return name, command, args[1:]


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: posttrain run recipes/tiny.yaml  ·  exit codes: 0 done or ship, 1 a check or gate says no, "
    "2 bad usage, configuration, data or contract, 3 infrastructure or crash, 4 inconclusive",
)


def _print_version(value: bool) -> None:
    if value:
        print(posttrain.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
) -> None:
    """Take a start model to a gated assistant, and prove at each step that it got better."""


def main() -> None:
    """Entry point: user mistakes print one message and no traceback; the exit code says what kind it was."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' own bars; ours go on
    try:
        app()
    except PosttrainError as error:
        if "--json" in sys.argv:
            print(json.dumps({"error": error.message, "hint": error.hint, "exit_code": error.exit_code}))
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it was", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno not in _PLACES:
            _crash()
        what, exit_code = _PLACES[error.errno]
        print(f"error: {error.filename or 'the output'} {what}\n  -> choose another place; nothing finished is lost", file=sys.stderr)
        sys.exit(exit_code)
    except Exception:
        _crash()


_PLACES = {
    errno.EEXIST: ("is there already and is no folder", 2),
    errno.EISDIR: ("is a folder, a file is needed", 2),
    errno.ENOTDIR: ("lies below a file, where no folder can be made", 2),
    errno.EACCES: ("cannot be opened: permission denied", 3),
    errno.EROFS: ("cannot be written: its file system is read-only", 3),
    errno.ENOSPC: ("cannot be written: no space left", 3),
    errno.EDQUOT: ("cannot be written: the quota is used up", 3),
    errno.EFBIG: ("cannot be written: the file is larger than is allowed here", 3),
}
"""What is wrong with a place a user named, by errno, and the exit code."""


def _crash() -> NoReturn:
    traceback.print_exc()
    print(
        "error: this is a defect in posttrain, not in your input; nothing finished is lost. Please report the lines above.",
        file=sys.stderr,
    )
    sys.exit(3)
