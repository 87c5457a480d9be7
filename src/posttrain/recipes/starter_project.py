"""What `posttrain init` writes: a project that runs as it is, to be edited piece by piece."""

import re
from importlib.resources import files
from pathlib import Path
from string import Template

from posttrain.config import read_yaml
from posttrain.config.files import write_text
from posttrain.data.finops import lines, training_rows
from posttrain.data.ledger import build_ledger_data
from posttrain.errors import ConfigError
from posttrain.recipes.recipe import NAME_PATTERN
from posttrain.release import freeze_gate

PLACES = {
    "recipe.yaml": "recipes/{name}.yaml",
    "policy.yaml": "policies/{name}.yaml",
    "suite.yaml": "suites/{name}.yaml",
    "gate.yaml": "suites/{name}-gate.yaml",
    "card.yaml": "recipes/data/{name}.jsonl.card.yaml",
}


def write_starter(folder: str | Path, name: str) -> list[Path]:
    """Write recipe, policy, suite, gate, training rows and their card under ``folder``; freeze suite and gate. Returns the files.

    Raises ConfigError for a name that is no plain word, and when a file is already there: nothing is overwritten.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(f"'{name}' cannot name a recipe", hint="small letters, digits, - and _; for example billing-assistant")
    root = Path(folder)
    targets = {source: root / place.format(name=name) for source, place in PLACES.items()}
    train, cases = root / f"recipes/data/{name}.jsonl", root / f"suites/{name}.jsonl"
    for target in (*targets.values(), train, cases):
        if target.exists():
            raise ConfigError(f"{target} is already there", hint="choose another name or folder; nothing was written")
    for source, target in targets.items():
        text = files("posttrain.recipes").joinpath("starter", source).read_text(encoding="utf-8")
        write_text(target, Template(text).substitute(name=name))
    system_prompt = str(read_yaml(targets["policy.yaml"])["system_prompt"]).strip()
    demonstrations, rows = build_ledger_data(system_prompt)
    write_text(train, lines(training_rows(demonstrations)))
    write_text(cases, lines(rows))
    freeze_gate(targets["gate.yaml"])
    return [*targets.values(), train, cases]
