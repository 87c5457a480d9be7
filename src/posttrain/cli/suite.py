"""`posttrain suite`: freeze, check and show evaluation suites and gates."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from posttrain.evaluation import Suite

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Freeze and check evaluation suites and gates: they are written before training.",
    epilog="Examples: posttrain suite freeze suites/finops-gate.yaml  ·  posttrain suite check suites/finops.yaml",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command(epilog="Example: posttrain suite freeze suites/finops-gate.yaml   (freezes the gate's suite too)")
def freeze(file: Annotated[Path, typer.Argument(help="A suite, or a gate with its suite.")], as_json: AsJson = False) -> None:
    """Write the lock file beside a suite (and gate): its hash and the time. Commit it. An unchanged file keeps its time."""
    from posttrain.evaluation import freeze_suite, read_suite
    from posttrain.release import freeze_gate, is_gate, read_gate

    suite = read_gate(file)[1] if is_gate(file) else read_suite(file)
    lock = freeze_gate(file) if is_gate(file) else freeze_suite(suite)
    _warn_of_copies(suite)
    summary = {"file": str(file), "hash": lock["hash"], "frozen_at": lock["frozen_at"], "copies": suite.num_copies}
    typer.echo(json.dumps(summary) if as_json else f"{file}: frozen at {lock['frozen_at']} as {lock['hash']}")


def _warn_of_copies(suite: "Suite") -> None:
    if suite.num_copies:
        n = f"{suite.num_copies} of {len(suite.cases)} cases ask and expect the same as an earlier one"
        typer.echo(f"warning: {suite.cases_path}: {n}; intervals count copies as one draw", err=True)


@app.command(
    epilog="Example: posttrain suite check suites/finops.yaml   ·  exit codes: 0 unchanged, 1 changed, never frozen or weak, 2 not valid"
)
def check(file: Annotated[Path, typer.Argument(help="A suite, or a gate with its suite.")], as_json: AsJson = False) -> None:
    """Is a suite (or gate) valid, and as it was frozen? Names each change, and says when a gate asks for form alone."""
    from posttrain.errors import CheckFailed
    from posttrain.evaluation import changes_since_freeze, read_lock, read_suite, shorten
    from posttrain.release import gate_changes, is_gate, read_gate, substance_check

    gate, suite = read_gate(file) if is_gate(file) else (None, read_suite(file))
    substance = substance_check(gate, suite) if gate else None
    weak = substance.reason if substance and substance.outcome == "block" else ""
    changes = changes_since_freeze(suite) + (gate_changes(file) if is_gate(file) else [])
    locks = [(path, read_lock(path)) for path in dict.fromkeys((suite.path, file))]
    missing = [str(path) for path, lock in locks if lock is None]
    if as_json:
        typer.echo(json.dumps({"file": str(file), "frozen": not missing, "changes": changes, "weak": weak}, ensure_ascii=False))
        raise typer.Exit(1 if changes or missing or weak else 0)
    if weak:
        raise CheckFailed(f"{file}: {weak}", hint="require a score of the content too, such as the right calls or the end state")
    if missing:
        raise CheckFailed(f"{', '.join(missing)}: never frozen", hint=f"posttrain suite freeze {file}")
    if changes:
        raise CheckFailed(
            f"{file}: changed since it was frozen:\n  {shorten(changes)}", hint="undo the change, or raise the version and freeze again"
        )
    typer.echo("\n".join(f"{path}: unchanged since {lock['frozen_at']}" for path, lock in locks if lock))


@app.command(epilog="Example: posttrain suite show suites/finops.yaml --case q17")
def show(
    file: Annotated[Path, typer.Argument(help="The suite file.")],
    case: Annotated[str, typer.Option(help="Show this case in full.")] = "",
    as_json: AsJson = False,
) -> None:
    """What a suite holds: cases, slices, scores; or one case."""
    from posttrain.errors import ConfigError, suggest
    from posttrain.evaluation import read_suite

    suite = read_suite(file)
    if case:
        found = next((known for known in suite.cases if known.id == case), None)
        if found is None:
            raise ConfigError(f"{suite.cases_path}: no case '{case}'", hint=suggest(case, [known.id for known in suite.cases]))
        shown = {"id": found.id, "line": found.line, "text": found.text, "expected": found.expected, "slices": list(found.slices)}
    else:
        sizes = {name: sum(name in known.slices for known in suite.cases) for name in suite.slices}
        shown = {"name": suite.config.name, "version": suite.config.version, "hash": suite.hash, "cases": len(suite.cases), "slices": sizes}
        shown |= {"scores": list(suite.score_names), "groups": len({*suite.groups.values()}), "copies": suite.num_copies}
        _warn_of_copies(suite)
    typer.echo(json.dumps(shown, ensure_ascii=False) if as_json else "\n".join(f"{key}: {value}" for key, value in shown.items()))
