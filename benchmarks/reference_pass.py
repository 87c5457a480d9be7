"""The reference pass over many pairs: time over tokens, and what a kill costs.

    python benchmarks/reference_pass.py                     # 10,000 pairs, tiny shape, float32
    python benchmarks/reference_pass.py --pairs 400 --size m135 --dtype bfloat16

One process begins the pass and is killed with SIGKILL when 60 % of the tokens are done; a second one goes on in the same folder and ends
it. Tokens per second are given for each fifth of the tokens: in a pass that is linear in tokens they agree. No peer: TRL computes the
same values in memory and begins anew after a kill.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from common import build_model, peak_memory_gb, report
from dpo import draw_pairs, pair_items

KILL_AT = 0.6


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--size", choices=["tiny", "m135"], default="tiny")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kill", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def run(options: argparse.Namespace) -> None:
    """The pass in ``options.folder``; a line of JSON for every forward pass: tokens done, all tokens, seconds, peak GB."""
    import torch

    from posttrain.models import ModelSettings, Policy
    from posttrain.training import reference_logprobs

    sequences = [row for item in pair_items(draw_pairs(options.pairs, dialogues=False)) for row in item.sequences]
    policy = Policy(build_model(options.size), ModelSettings(path="-"), compute_dtype=getattr(torch, options.dtype))
    began = time.perf_counter()

    def progress(done: int, total: int) -> None:
        print(json.dumps([done, total, time.perf_counter() - began, peak_memory_gb()]), flush=True)
        if options.kill and done >= KILL_AT * total:
            os.kill(os.getpid(), signal.SIGKILL)

    found = reference_logprobs(policy, sequences, options.folder, contract="benchmark", on_progress=progress)
    assert len(found.sums()) == len(sequences)


def rates(points: list[list[float]], parts: int) -> list[float]:
    """Tokens per second in each of ``parts`` equal shares of the tokens that these points span."""
    (first, _, _, _), (last, _, _, _) = points[0], points[-1]
    cuts = [min(points, key=lambda point: abs(point[0] - first - (last - first) * part / parts)) for part in range(parts + 1)]
    return [round((b[0] - a[0]) / (b[2] - a[2])) for a, b in pairwise(cuts)]


def main() -> None:
    options = arguments()
    if options.folder:
        run(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--pairs", str(options.pairs), "--size", options.size, "--dtype", options.dtype]
        command += ["--folder", folder]
        killed = subprocess.run([*command, "--kill"], stdout=subprocess.PIPE, text=True)
        assert killed.returncode == -signal.SIGKILL
        resumed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    before, after = ([json.loads(line) for line in run.stdout.splitlines()] for run in (killed, resumed))
    report(
        "reference_pass",
        pairs=options.pairs,
        size=options.size,
        dtype=options.dtype,
        tokens=before[0][1],
        tokens_before_the_kill=before[-1][0],
        tokens_computed_again=before[-1][0] - max(done for done in (0, *(point[0] for point in before)) if done < after[0][0]),
        seconds=round(before[-1][2] + after[-1][2], 1),
        tokens_per_second_by_part={"before": rates(before, 3), "after": rates(after, 2)},
        peak_gb=round(after[-1][3], 2),
    )


if __name__ == "__main__":
    main()
