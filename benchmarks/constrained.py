"""What a constraint costs a token, and what forced tokens save, on SmolLM2-135M (vocabulary 49,152).

    python benchmarks/constrained.py [--model smollm2-135m] [--batch 1 16] [--new 120]

Passes of the decoding loop with and without a JSON Schema, one grammar a row, taking turns in one process; prefill is left out and
forced tokens are switched off, so a pass is one token of every row. Then the same answer with forced tokens on and off: passes and seconds.
"""

import argparse
import json
import time

import numpy as np
import torch

from posttrain.chat import ChatContract, template_text
from posttrain.generation import LocalGenerator
from posttrain.generation.batch import Batch, slot_attention_of
from posttrain.generation.constraint import GrammarConstraint, build_constraint
from posttrain.generation.row import Row
from posttrain.records import Constraint, GenerationRequest, Message, SamplingSettings

WARM_PASSES = 4
ENTRY = {
    "type": "object",
    "properties": {
        "account": {"type": "string", "pattern": "^[A-Z]-[0-9]{2}$"},
        "side": {"enum": ["debit", "credit"]},
        "amount": {"type": "number", "minimum": 0},
        "memo": {"type": "string"},
    },
    "required": ["account", "side", "amount", "memo"],
    "additionalProperties": False,
}


class OneByOne:
    """A constraint whose forced tokens are sampled like the others."""

    def __init__(self, constraint: GrammarConstraint) -> None:
        self.mask, self.push = constraint.mask, constraint.push
        self.is_finished = False

    def forced(self) -> list[int]:
        return []


def constraint_of(generator: LocalGenerator, number: int) -> OneByOne:
    """A grammar of its own for every row: entries that go on past the length limit."""
    name = f"entries_{number}"
    schema = {"type": "object", "properties": {name: {"type": "array", "items": ENTRY, "minItems": 40}}, "required": [name]}
    return OneByOne(build_constraint(Constraint("json_schema", schema), (), generator.contract, generator.model.config.vocab_size))


class Loop:
    """A batch of its own over the model; the same prompts, with or without a constraint a row."""

    def __init__(self, generator: LocalGenerator, prompts: list[list[int]], new: int, *, constrained: bool) -> None:
        self.batch = Batch(generator.model, num_rows=len(prompts), num_positions=2 * len(prompts) * (len(prompts[0]) + new), end_ids=())
        self.seconds: list[float] = []
        for number, prompt in enumerate(prompts):
            self.batch.submit(Row(list(prompt), SamplingSettings(), new, constraint_of(generator, number) if constrained else None))

    def step(self) -> None:
        started = time.perf_counter()
        self.batch.step()
        self.seconds.append(time.perf_counter() - started)


def latency(generator: LocalGenerator, size: int, new: int) -> dict[str, object]:
    """Passes without and with constraints take turns, and the order is reversed every pass: load on the machine hits both."""
    prompts = [generator.contract.encode([Message("user", f"Book invoice {i}.")], add_generation_prompt=True).tolist() for i in range(size)]
    free, held = (Loop(generator, prompts, new, constrained=which) for which in (False, True))
    with slot_attention_of(generator.model):
        for number in range(new):
            for loop in (free, held) if number % 2 else (held, free):
                loop.step()
    plain, constrained = (np.array(loop.seconds[WARM_PASSES:]) for loop in (free, held))
    shown = {
        name: {"median_ms": 1e3 * float(np.median(seconds)), "p99_ms": 1e3 * float(np.quantile(seconds, 0.99))}
        for name, seconds in (("free", plain), ("constrained", constrained))
    }
    return {
        "batch": size,
        "passes": len(plain),
        **shown,
        "overhead_of_medians_percent": 100 * (float(np.median(constrained) / np.median(plain)) - 1),
        "median_overhead_of_pairs_percent": 100 * (float(np.median(constrained / plain)) - 1),
    }


def mask_cost(generator: LocalGenerator) -> dict[str, float]:
    """Milliseconds of the first constraint (the tokenizer's tables) and of a later one; microseconds of one asked again, and of a mask."""
    started = time.perf_counter()
    constraint_of(generator, 9_999)
    tables_ms = 1e3 * (time.perf_counter() - started)
    started = time.perf_counter()
    constraint = constraint_of(generator, 10_000)
    compile_ms = 1e3 * (time.perf_counter() - started)
    started = time.perf_counter()
    constraint_of(generator, 10_000)
    copy_us = 1e6 * (time.perf_counter() - started)
    times = []
    generator_of_noise = torch.Generator().manual_seed(0)
    for _ in range(300):
        logits = torch.randn(generator.model.config.vocab_size, generator=generator_of_noise)
        started = time.perf_counter()
        constraint.mask(logits)
        times.append(time.perf_counter() - started)
        constraint.push(int(logits.argmax()))
    return {
        "first_ms": tables_ms,
        "compile_ms": compile_ms,
        "again_us": copy_us,
        "mask_median_us": 1e6 * float(np.median(times)),
        "mask_p99_us": 1e6 * float(np.quantile(times, 0.99)),
    }


def saving(generator: LocalGenerator) -> list[dict[str, object]]:
    """A tool call and an entry, with forced tokens and one by one (as with log-probabilities): passes and seconds."""
    tool = {"name": "propose_journal_entry", "parameters": ENTRY}
    asked = {
        "tool call": (Constraint("tool_calls", "propose_journal_entry"), (tool,)),
        "JSON Schema": (
            Constraint("json_schema", {**ENTRY, "properties": {**ENTRY["properties"], "memo": {"enum": ["rent", "fees"]}}}),
            (),
        ),
    }
    rows = []
    for what, (constraint, tools) in asked.items():
        for forced in (True, False):
            sampling = SamplingSettings(max_new_tokens=120, logprobs=not forced)
            messages = (Message("user", "Book 120 of rent on A-17, debit."),)
            with generator.open() as session:
                started = time.perf_counter()
                ticket = session.submit(GenerationRequest(messages, tools, sampling, constraint=constraint))
                while ticket.generation is None and ticket.error is None:
                    session.advance()
                seconds = time.perf_counter() - started
                answer = ticket.generation
                rows.append(
                    {
                        "answer": what,
                        "forced": forced,
                        "tokens": answer.num_completion_tokens,
                        "passes": session.statistics.num_passes,
                        "seconds": seconds,
                    }
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--new", type=int, default=120)
    options = parser.parse_args()
    generator = LocalGenerator.load(options.model, pack=True)
    contract = ChatContract.load(options.model, template=template_text("chatml-tools"))
    generator = LocalGenerator(generator.model, contract)
    print(json.dumps(mask_cost(generator)))
    for size in options.batch:
        print(json.dumps(latency(generator, size, options.new)), flush=True)
    for row in saving(generator):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
