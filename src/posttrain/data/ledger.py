"""Made ledger entries to be booked to an account: a task that a tiny model can learn from scratch in seconds.

An entry has a number, a payee and the things that were bought. The answer is the account they all belong to,
``{"account":"travel"}``, or ``{"not_in_chart":true}`` when the chart of accounts has no place for them. Entries are numbered without
repetition, so the training rows and the suite share none; what is learned is the chart, and to ignore everything else.

Command: ``python -m posttrain.data.ledger`` (rewrite the shipped files, run in the project's root folder).
"""

import random
from typing import Any

from posttrain.config.files import write_text
from posttrain.data.finops import lines, read_system_prompt, training_rows
from posttrain.data.tatqa import dump_answer
from posttrain.records import Demonstration, Message

CHART = {
    "travel": ("taxi", "train", "hotel"),
    "office": ("paper", "desk", "ink"),
    "energy": ("gas", "heating", "solar"),
    "staff": ("wages", "pension", "bonus"),
}
NOT_IN_CHART = ("yacht", "perfume", "circus")
NUM_ITEMS = 4
PAYEES = ("Abel", "Berg", "Cruz", "Diaz", "Egan", "Ford", "Gold", "Hahn", "Ivey", "Jung", "Katz", "Lund", "Moss", "Nash", "Otto", "Page")
SEED = 17
TRAIN, SUITE, POLICY = "recipes/data/tiny.jsonl", "suites/tiny.jsonl", "policies/tiny.yaml"
NUM_TRAIN, NUM_SUITE = 960, 128


def make_entry(number: int, draw: random.Random) -> tuple[str, dict[str, Any]]:
    """The text of an entry and its booking; one entry in three is not in the chart."""
    account = draw.choice([*CHART, *CHART, "", "", "", ""])
    items = ", ".join(draw.choices(CHART.get(account, NOT_IN_CHART), k=NUM_ITEMS))
    text = f"Entry {number} to {draw.choice(PAYEES)}: {items}"
    return text, {"account": account} if account else {"not_in_chart": True}


def build_ledger_data(system_prompt: str) -> tuple[list[Demonstration], list[dict[str, Any]]]:
    """Training conversations and suite cases, drawn from one seeded stream of entries."""
    draw = random.Random(SEED)
    demonstrations: list[Demonstration] = []
    cases: list[dict[str, Any]] = []
    for number in draw.sample(range(1000, 10000), NUM_SUITE + NUM_TRAIN):
        text, expected = make_entry(number, draw)
        prompt = (Message("system", system_prompt), Message("user", text))
        name = f"entry-{number}"
        if len(cases) < NUM_SUITE:
            plain = [{"role": message.role, "content": message.content} for message in prompt]
            kind = "answerable" if "account" in expected else "not_in_chart"
            cases.append({"id": name, "messages": plain, "expected": expected, "slices": [kind]})
        else:
            demonstrations.append(Demonstration((*prompt, Message("assistant", dump_answer(expected))), id=name, source="ledger"))
    return demonstrations, cases


def main() -> None:
    """Write the training rows and the suite's cases."""
    demonstrations, cases = build_ledger_data(read_system_prompt(POLICY))
    write_text(TRAIN, lines(training_rows(demonstrations)))
    write_text(SUITE, lines(cases))
    print(f"{len(demonstrations)} training rows, {len(cases)} cases")


if __name__ == "__main__":
    main()
