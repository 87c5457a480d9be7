"""`posttrain preferences pairs` and `adjudicate`: from judgements to training pairs."""

import json
from pathlib import Path
from typing import Annotated

import typer

Judged = Annotated[Path, typer.Argument(help="Judged comparisons.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def pairs(
    file: Judged,
    out: Annotated[Path, typer.Option("--out", "-o", help="Preference pairs, JSONL; the card of FILE goes with them.")],
    method: Annotated[str, typer.Option(help="dawid_skene, majority or mean.")] = "dawid_skene",
    min_confidence: Annotated[float, typer.Option(help="Leave out pairs less certain than this.", min=0.5, max=1.0)] = 0.5,
    ties: Annotated[str, typer.Option(help="drop, or half: keep them with probability .5.")] = "drop",
    rubric: Annotated[str, typer.Option(help="Only judgements under this rubric version.")] = "",
    as_json: AsJson = False,
) -> None:
    """Clean and weight: one pair a comparison, its probability out of all judgements. What is left out is counted, by reason.

    Example: posttrain preferences pairs pandalm/testset-v1.json --out data/pairs.jsonl --min-confidence 0.7
    """
    import shutil

    from posttrain.data import card_path, load_comparisons, write_jsonl
    from posttrain.feedback import build_pairs, of_rubric

    comparisons = load_comparisons(file)
    comparisons = of_rubric(comparisons, rubric) if rubric else comparisons
    made = build_pairs(comparisons, method=method, min_confidence=min_confidence, ties=ties)  # type: ignore[arg-type]
    write_jsonl(made.pairs, out)
    if card_path(file).is_file():
        shutil.copyfile(card_path(file), card_path(out))
    if as_json:
        typer.echo(json.dumps({"out": str(out), **made.to_dict()}))
        return
    counts = f"{len(made.pairs)} pairs of {made.comparisons} comparisons, {made.soft} with a soft label"
    typer.echo(f"{out}: {counts} ({method}, rubric {made.rubric})")
    typer.echo("left out: " + (", ".join(f"{count} {reason}" for reason, count in made.left_out.items()) or "none"))


def adjudicate(
    file: Judged,
    out: Annotated[Path, typer.Option("--out", "-o", help="Labelling tasks; with --decisions, FILE with the decisions in it.")],
    decisions: Annotated[Path | None, typer.Option(help="The tasks as they came back, a judgement in each decided one.")] = None,
    final: Annotated[bool, typer.Option(help="A decision settles its comparison; --no-final adds it as one more vote.")] = True,
    limit: Annotated[int, typer.Option(help="At most so many tasks, most uncertain first; 0: all.", min=0)] = 0,
    least: Annotated[float, typer.Option(help="Entropy in bits from which a label is uncertain.", min=0.0)] = 0.5,
    method: Annotated[str, typer.Option(help="dawid_skene or mean.")] = "dawid_skene",
    seed: Annotated[int, typer.Option(help="Of the order of sides.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write the uncertain comparisons as blind labelling tasks; or read the decisions back.

    Example: posttrain preferences adjudicate judged.jsonl --out tasks.jsonl --limit 50  ·  then
    posttrain preferences adjudicate judged.jsonl --decisions tasks.jsonl --out settled.jsonl
    """
    from posttrain.data import load_comparisons, write_jsonl
    from posttrain.feedback import adjudication_queue, labelling_tasks, take_decisions

    comparisons = load_comparisons(file)
    if decisions:
        decided = load_comparisons(decisions)
        done = sum(bool(task.judgements) for task in decided)
        count = write_jsonl(take_decisions(comparisons, decided, final=final), out)
        summary = {"out": str(out), "comparisons": count, "decided": done, "open": len(decided) - done}
    else:
        queue = adjudication_queue(comparisons, method=method, least=least)  # type: ignore[arg-type]
        tasks = labelling_tasks([doubt.comparison for doubt in queue[: limit or None]], seed=seed)
        summary = {"out": str(out), "uncertain": len(queue), "tasks": write_jsonl(tasks, out)}
    typer.echo(json.dumps(summary) if as_json else ", ".join(f"{name} {value}" for name, value in summary.items()))
