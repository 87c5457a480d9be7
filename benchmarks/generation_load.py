"""Requests that arrive over time, and samples of one prompt, beside Hugging Face `generate`; interleaved in one process.

    python benchmarks/generation_load.py arrivals [--model smollm2-135m] [--rounds 3]
    python benchmarks/generation_load.py samples [--samples 8] [--prompt 400] [--new 64] [--rounds 5]

Without --model: a random model of SmolLM2-135M's shape; no answer ends early. Prints ours, peer and ratio,
of wall clock and of processor time (for a machine that others use).

arrivals: 16 requests, prompts of 20 to 400 tokens (lognormal, median 110), answers of 8 to 192 (lognormal, median 48), one every --gap
seconds on average (exponential). Tokens a second are those asked for over the time from the first arrival to the last answer. The peer runs
static batches, padded on the left, as long as the longest answer asked for in each, under two rules of which the better counts: take what
has come, or wait for all 16. It uses the faster of its two precisions, found first unless --peer-dtype names it.

samples: one prompt, sampled at temperature 1. The peer gets it once with `num_return_sequences`.
"""

import argparse
import json
import sys
import time
import warnings

import numpy as np
import torch
from generation import SHAPE, Peer, build, draw_prompts
from transformers import GenerationConfig

from posttrain.generation.batch import Batch, slot_attention_of
from posttrain.generation.packing import can_pack, pack_linears, pack_norms
from posttrain.generation.row import Row
from posttrain.models import choose_dtype
from posttrain.records import SamplingSettings

INTERLEAVED_TOKENS = 256


def draw_load(num: int, gap: float) -> tuple[list[list[int]], list[int], list[float]]:
    """Prompts, answer lengths, seconds of arrival (the first at 0)."""
    rng = np.random.default_rng(1)
    arrivals = np.concatenate([[0.0], np.cumsum(rng.exponential(gap, num - 1))])
    return (
        draw_prompts(num, SHAPE["vocab_size"]),
        np.clip(rng.lognormal(np.log(48), 0.8, num), 8, 192).astype(int).tolist(),
        arrivals.tolist(),
    )


class Engine:
    """Our batch; nothing is kept between calls."""

    def __init__(self, model: torch.nn.Module, num_rows: int) -> None:
        if can_pack(model):
            pack_linears(model)
            pack_norms(model)
        self.model = model
        self.batch = Batch(model, num_rows=num_rows, num_positions=2**15, end_ids=())
        self.batch.interleaved_tokens = INTERLEAVED_TOKENS

    def serve(self, rows: list[Row], arrivals: list[float]) -> tuple[float, list[float]]:
        """Seconds until all are done, and each one's from its arrival."""
        self.batch.forget()
        coming = sorted(zip(arrivals, range(len(rows)), strict=True))
        latencies = [0.0] * len(rows)
        start = time.perf_counter()
        with slot_attention_of(self.model):
            while not all(latencies):
                now = time.perf_counter() - start
                while coming and coming[0][0] <= now:
                    self.batch.submit(rows[coming.pop(0)[1]])
                left = self.batch.step()
                now = time.perf_counter() - start
                for row in left:
                    index = next(i for i, other in enumerate(rows) if other is row)
                    latencies[index] = now - arrivals[index]
                if not self.batch.num_running and coming:
                    time.sleep(max(0.0, coming[0][0] - now))
        return time.perf_counter() - start, latencies


def serve_static(model: torch.nn.Module, load, *, wait_for_all: bool) -> tuple[float, list[float], dict[int, list[int]]]:
    """Batches of what has come; seconds until all are done, each one's from its arrival, and the tokens."""
    prompts, lengths, arrivals = load
    todo = sorted(range(len(prompts)), key=arrivals.__getitem__)
    latencies, tokens = [0.0] * len(prompts), {}
    start = time.perf_counter()
    while todo:
        ready_at = arrivals[todo[-1]] if wait_for_all else arrivals[todo[0]]
        time.sleep(max(0.0, ready_at - (time.perf_counter() - start)))
        now = time.perf_counter() - start
        batch = [i for i in todo if arrivals[i] <= now]
        todo = todo[len(batch) :]
        answers = Peer(model, [prompts[i] for i in batch])(max(lengths[i] for i in batch))
        for i, answer in zip(batch, answers, strict=True):
            latencies[i] = time.perf_counter() - start - arrivals[i]
            tokens[i] = answer[: lengths[i]]
    return time.perf_counter() - start, latencies, tokens


def better_peer(path: str, known: str) -> tuple[str, torch.nn.Module]:
    """Hugging Face in the faster of its precisions on four tokens of sixteen prompts, or in the one named."""
    if known:
        return known, build(path, getattr(torch, known))
    models = {name: build(path, dtype) for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))}
    trial = {}
    for name, model in models.items():
        peer = Peer(model, draw_prompts(16, SHAPE["vocab_size"]))
        trial[name] = min(_seconds(lambda peer=peer: peer(4)) for _ in range(2))
    best = min(trial, key=trial.__getitem__)
    print(f"peer, 4 tokens: {trial}", file=sys.stderr, flush=True)
    return best, models[best]


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def run_arrivals(options: argparse.Namespace) -> dict[str, object]:
    load = draw_load(16, options.gap)
    prompts, lengths, arrivals = load
    dtype, peer = better_peer(options.model, options.peer_dtype)
    ours = Engine(build(options.model, choose_dtype("auto")), 16)
    times: dict[str, list[float]] = {"ours": [], "take what came": [], "wait for all": []}
    used: dict[str, list[float]] = {name: [] for name in times}
    waits: dict[str, list[float]] = {name: [] for name in times}
    same = 0
    for number in range(options.rounds):
        for name in list(times) if number % 2 else reversed(times):
            begin = time.process_time()
            if name == "ours":
                rows = [Row(list(prompt), SamplingSettings(), length) for prompt, length in zip(prompts, lengths, strict=True)]
                seconds, latencies = ours.serve(rows, arrivals)
            else:
                seconds, latencies, tokens = serve_static(peer, load, wait_for_all=name == "wait for all")
            times[name].append(seconds)
            used[name].append(time.process_time() - begin)
            waits[name].append(float(np.median(latencies)))
            print(
                f"round {number} {name}: {seconds:.2f} s, {used[name][-1]:.2f} s used, median latency {waits[name][-1]:.2f} s",
                file=sys.stderr,
                flush=True,
            )
        same = sum(row.generated == tokens[i] for i, row in enumerate(rows))
    rule = min(("take what came", "wait for all"), key=lambda name: min(times[name]))
    return {
        "load": "arrivals",
        "tokens": sum(lengths),
        "last_arrival_s": round(arrivals[-1], 1),
        "peer_dtype": dtype,
        "peer_rule": rule,
        "median_latency_s": {name: round(min(values), 2) for name, values in waits.items()},
        "identical_rows": same,
        "ratio_processor": round(min(used[rule]) / min(used["ours"]), 2),
        **_ratio(sum(lengths), times["ours"], times[rule]),
    }


def run_samples(options: argparse.Namespace) -> dict[str, object]:
    prompt = np.random.default_rng(2).integers(5, SHAPE["vocab_size"] - 5, options.prompt).tolist()
    dtype, peer = better_peer(options.model, options.peer_dtype)
    ours = Engine(build(options.model, choose_dtype("auto")), options.samples)
    ids = torch.tensor([prompt])
    peer.generation_config = GenerationConfig(
        pad_token_id=0,
        max_new_tokens=options.new,
        min_new_tokens=options.new,
        do_sample=True,
        top_k=0,
        num_return_sequences=options.samples,
    )

    def theirs() -> None:
        with torch.inference_mode():
            peer.generate(ids, attention_mask=torch.ones_like(ids))

    computed = 0

    def mine() -> None:
        nonlocal computed
        rows = [Row(list(prompt), SamplingSettings(temperature=1.0, seed=i), options.new) for i in range(options.samples)]
        ours.serve(rows, [0.0] * options.samples)
        computed = sum(row.num_computed for row in rows)

    times: dict[str, list[float]] = {"ours": [], "peer": []}
    used: dict[str, list[float]] = {"ours": [], "peer": []}
    for number in range(options.rounds):
        pair = [("ours", mine), ("peer", theirs)]
        for name, work in pair if number % 2 else reversed(pair):
            begin = time.process_time()
            times[name].append(_seconds(work))
            used[name].append(time.process_time() - begin)
            print(f"round {number} {name}: {times[name][-1]:.2f} s, {used[name][-1]:.2f} s used", file=sys.stderr, flush=True)
    return {
        "load": "samples",
        "samples": options.samples,
        "prompt_tokens": options.prompt,
        "prompt_tokens_computed": computed,
        "new_tokens": options.new,
        "peer_dtype": dtype,
        "ratio_processor": round(min(used["peer"]) / min(used["ours"]), 2),
        **_ratio(options.samples * options.new, times["ours"], times["peer"]),
    }


def _ratio(tokens: int, ours: list[float], peer: list[float]) -> dict[str, float]:
    return {
        "ours_tokens_per_second": round(tokens / min(ours), 1),
        "peer_tokens_per_second": round(tokens / min(peer), 1),
        "ratio_best": round(min(peer) / min(ours), 2),
        "ratio_median": round(float(np.median(peer) / np.median(ours)), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("load", choices=("arrivals", "samples"))
    parser.add_argument("--model", default="", help="model folder or cached name; empty: a random model of the 135M shape")
    parser.add_argument("--peer-dtype", default="", choices=("", "float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gap", type=float, default=0.3, help="arrivals: mean seconds between two requests")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=400)
    parser.add_argument("--new", type=int, default=64)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(json.dumps(run_arrivals(options) if options.load == "arrivals" else run_samples(options)))


if __name__ == "__main__":
    main()
