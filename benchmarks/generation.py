"""Tokens a second of the local generator beside Hugging Face `generate`, interleaved in one process; prints ours, peer and ratio.

    python benchmarks/generation.py [--model smollm2-135m] [--batch 16] [--new 64] [--rounds 5]

Without --model: a random model of SmolLM2-135M's shape. Greedy, every row makes exactly --new tokens; prompt lengths vary (lognormal,
median 110, 20 to 400). The peer is padded on the left and uses the faster of its two precisions, found first. Prefill is included.
"""

import argparse
import json
import sys
import time
import warnings

import numpy as np
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from posttrain.generation.batch import Batch, slot_attention_of
from posttrain.generation.packing import can_pack, pack_linears, pack_norms
from posttrain.generation.row import Row
from posttrain.models import choose_dtype, load_for_inference
from posttrain.records import SamplingSettings

SHAPE = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


def build(path: str, dtype: torch.dtype) -> LlamaForCausalLM:
    if path:
        return load_for_inference(path, dtype=str(dtype).removeprefix("torch."))
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE)).to(dtype).eval()


def draw_prompts(batch: int, vocab: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(110), 0.6, batch), 20, 400).astype(int)
    return [rng.integers(5, vocab - 5, length).tolist() for length in lengths]


class Peer:
    """Hugging Face generate on left-padded prompts."""

    def __init__(self, model: torch.nn.Module, prompts: list[list[int]]) -> None:
        self.model = model
        longest = max(map(len, prompts))
        self.ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        self.mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    def __call__(self, new: int) -> list[list[int]]:
        self.model.generation_config = GenerationConfig(pad_token_id=0, max_new_tokens=new, min_new_tokens=new, do_sample=False)
        with torch.inference_mode():
            return self.model.generate(self.ids, attention_mask=self.mask)[:, self.ids.shape[1] :].tolist()


class Ours:
    """The generator's batch with packed weights; nothing is kept between calls."""

    def __init__(self, model: torch.nn.Module, prompts: list[list[int]], new: int) -> None:
        if can_pack(model):
            pack_linears(model)
            pack_norms(model)
        self.model, self.prompts = model, prompts
        self.batch = Batch(model, num_rows=len(prompts), num_positions=2 * len(prompts) * (max(map(len, prompts)) + new), end_ids=())

    def __call__(self, new: int) -> list[list[int]]:
        self.batch.forget()
        rows = [Row(list(prompt), SamplingSettings(), new) for prompt in self.prompts]
        for row in rows:
            self.batch.submit(row)
        with slot_attention_of(self.model):
            while not all(row.is_over for row in rows):
                self.batch.step()
        return [row.generated for row in rows]


def seconds(work, new: int) -> float:
    start = time.perf_counter()
    work(new)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="model folder or cached name; empty: a random model of the 135M shape")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-dtype", default="", choices=("", "float32", "bfloat16"), help="empty: the faster one, found first")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    prompts = draw_prompts(options.batch, SHAPE["vocab_size"])

    dtypes = (options.peer_dtype,) if options.peer_dtype else ("float32", "bfloat16")
    peers = {name: Peer(build(options.model, getattr(torch, name)), prompts) for name in dtypes}
    trial = {name: min(seconds(peer, 4) for _ in range(2)) for name, peer in peers.items()} if len(peers) > 1 else dict.fromkeys(peers, 0.0)
    print(f"peer, 4 tokens: {trial}", file=sys.stderr, flush=True)
    best = min(trial, key=trial.__getitem__)
    peer = peers.pop(best)
    peers.clear()
    ours = Ours(build(options.model, choose_dtype("auto")), prompts, options.new)
    same = None
    if best == "float32" == str(choose_dtype("auto")).removeprefix("torch."):
        same = sum(a == b for a, b in zip(ours(options.new), peer(options.new), strict=True))
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    used: dict[str, list[float]] = {"ours": [], "peer": []}
    for number in range(options.rounds):
        pair = [("ours", ours), ("peer", peer)]
        for name, work in pair if number % 2 else reversed(pair):
            begin = time.process_time()
            times[name].append(seconds(work, options.new))
            used[name].append(time.process_time() - begin)
            print(f"round {number} {name}: {times[name][-1]:.2f} s, {used[name][-1]:.2f} s used", file=sys.stderr, flush=True)
    tokens = options.batch * options.new
    result = {
        "batch": options.batch,
        "new_tokens": options.new,
        "mean_prompt_tokens": round(sum(map(len, prompts)) / len(prompts), 1),
        "peer_dtype": best,
        "ours_tokens_per_second": round(tokens / min(times["ours"]), 1),
        "peer_tokens_per_second": round(tokens / min(times["peer"]), 1),
        "ratio_best": round(min(times["peer"]) / min(times["ours"]), 2),
        "ratio_median": round(float(np.median(times["peer"]) / np.median(times["ours"])), 2),
        "ratio_processor": round(min(used["peer"]) / min(used["ours"]), 2),
        "identical_rows": same,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
