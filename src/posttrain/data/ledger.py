"""Small made ledgers and questions about them: a lookup that a tiny model can learn from scratch in seconds.

A ledger has a number and three lines, always cash, rent and fees. A question names an account; the answer is ``{"answer":85}`` or,
for an account that no ledger keeps, ``{"not_in_report":true}``. Ledgers are numbered without repetition and no two hold the same
amounts, so the training rows and the suite share no ledger: what is learned is to look up, not to remember.

Command: ``python -m posttrain.data.ledger`` (rewrite the shipped files, run in the project's root folder).
"""

import itertools
import random
from typing import Any

from posttrain.config.files import write_text
from posttrain.data.finops import lines, read_system_prompt, training_rows
from posttrain.data.tatqa import dump_answer
from posttrain.records import Demonstration, Message

ACCOUNTS = ("cash", "rent", "fees")
OTHERS = ("tax", "wages", "loans", "stock", "sales", "travel")
AMOUNTS = range(10, 100, 5)
SEED = 17
TRAIN, SUITE, POLICY = "recipes/data/tiny.jsonl", "suites/tiny.jsonl", "policies/tiny.yaml"
NUM_TRAIN_LEDGERS, NUM_SUITE_LEDGERS = 400, 32


def make_ledgers(count: int, *, seed: int = SEED) -> list[tuple[int, dict[str, int]]]:
    """``count`` ledgers: number (1000 to 9999) and amounts by account; no number and no set of amounts comes twice."""
    draw = random.Random(seed)
    numbers = draw.sample(range(1000, 10000), count)
    amounts = draw.sample(list(itertools.permutations(AMOUNTS, len(ACCOUNTS))), count)
    return [(number, dict(zip(ACCOUNTS, values, strict=True))) for number, values in zip(numbers, amounts, strict=True)]


def ask(number: int, amounts: dict[str, int], account: str, system_prompt: str) -> tuple[tuple[Message, ...], dict[str, Any]]:
    """Prompt (ledger first, question last) and expected answer."""
    ledger = "\n".join(f"{name} {amount}" for name, amount in amounts.items())
    messages = (Message("system", system_prompt), Message("user", f"Ledger {number}\n{ledger}\nQuestion: {account}?"))
    return messages, {"answer": amounts[account]} if account in amounts else {"not_in_report": True}


def build_ledger_data(system_prompt: str) -> tuple[list[Demonstration], list[dict[str, Any]]]:
    """Training conversations (every account of a ledger and one that is absent) and suite cases (two present, one absent)."""
    draw = random.Random(SEED + 1)
    demonstrations: list[Demonstration] = []
    cases: list[dict[str, Any]] = []
    for index, (number, amounts) in enumerate(make_ledgers(NUM_TRAIN_LEDGERS + NUM_SUITE_LEDGERS)):
        held_out = index < NUM_SUITE_LEDGERS
        asked = draw.sample(ACCOUNTS, 2) if held_out else list(ACCOUNTS)
        for account in [*asked, draw.choice(OTHERS)]:
            messages, expected = ask(number, amounts, account, system_prompt)
            name = f"ledger-{number}-{account}"
            if held_out:
                plain = [{"role": message.role, "content": message.content} for message in messages]
                kind = "answerable" if "answer" in expected else "not_in_report"
                cases.append({"id": name, "messages": plain, "expected": expected, "slices": [kind], "group": str(number)})
            else:
                answer = Message("assistant", dump_answer(expected))
                demonstrations.append(Demonstration((*messages, answer), id=name, source="ledger", metadata={"ledger": number}))
    return demonstrations, cases


def main() -> None:
    """Write the training rows and the suite's cases."""
    demonstrations, cases = build_ledger_data(read_system_prompt(POLICY))
    write_text(TRAIN, lines(training_rows(demonstrations)))
    write_text(SUITE, lines(cases))
    print(f"{len(demonstrations)} training rows, {len(cases)} cases")


if __name__ == "__main__":
    main()
