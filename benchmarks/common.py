"""What every training benchmark shares: the length mix, model shapes, memory probes, interleaved timing.

Length mix: prompt words clip(lognormal(ln 80, 0.8), 20, 400), completion words clip(lognormal(ln 60, 0.8), 10, 300), invented words of
one to a
few tokens, ChatML. Only ratios from one process count: both sides take turns, the order is reversed every step, and the best step is
compared.
"""

import argparse
import gc
import json
import math
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402

CHATML = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}\n"
    "{% else %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPES = {
    "tiny": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 688,
        "vocab_size": 4096,
    },
    "m135": {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
    },
}


def training_options(description: str | None) -> argparse.ArgumentParser:
    """The options every comparison of a training step with TRL has; the benchmark adds its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "m135"], default="m135")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--eager", action="store_true", help="do not compile our layers")
    parser.add_argument("--steps", type=int, default=5, help="batches, each of other rows")
    parser.add_argument("--rounds", type=int, default=1, help="how often every side takes every batch")
    parser.add_argument("--memory", choices=["ours", "trl"], help="run one side only and print the peak RSS")
    parser.add_argument("--gradients", action="store_true", help="compare the gradients of one batch and stop")
    parser.add_argument("--peer-keeps-memory", action="store_true", help="give the peer our allocator setting instead of the usual one")
    return parser


def vocabulary(count: int = 3000) -> list[str]:
    """Pronounceable invented words, always the same."""
    rng = np.random.default_rng(0)
    found: dict[str, None] = {}
    while len(found) < count:
        syllables = rng.choice([1, 2, 2, 3, 3, 4])
        found["".join(rng.choice(list("bcdfghjklmnprstvz")) + rng.choice(list("aeiou")) for _ in range(syllables))] = None
    return sorted(found)


class LengthMix:
    """Draws conversations with the length mix above."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._words = vocabulary()
        weights = 1 / np.arange(1, len(self._words) + 1) ** 0.9
        self._weights = weights / weights.sum()

    def text(self, count: int) -> str:
        return " ".join(self._words[i] for i in self._rng.choice(len(self._words), count, p=self._weights))

    def _draw(self, median: float, low: int, high: int) -> str:
        return self.text(int(np.clip(math.exp(self._rng.normal(math.log(median), 0.8)), low, high)))

    def prompt(self) -> str:
        return self._draw(80, 20, 400)

    def completion(self) -> str:
        return self._draw(60, 10, 300)

    def example(self) -> dict[str, list[dict[str, str]]]:
        """{"prompt": [...], "completion": [...]} in the conversational form TRL takes too."""
        return {
            "prompt": [{"role": "user", "content": self.prompt()}],
            "completion": [{"role": "assistant", "content": self.completion()}],
        }


def build_tokenizer() -> Any:
    """A byte-level BPE of 4,096 entries trained on the same invented words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    mix = LengthMix(0)
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([mix.text(200) for _ in range(1500)] + [" ".join(vocabulary())] * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>")
    fast.chat_template = CHATML
    return fast


def build_model(size: str, seed: int = 0) -> Any:
    """A random Llama of the named shape in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        **SHAPES[size],
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
        rms_norm_eps=1e-5,
    )
    return LlamaForCausalLM(config)


def peak_memory_gb() -> float:
    """Highest resident memory of this process so far, GB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024**2
    return float("nan")


def interleave(
    sides: Mapping[str, Callable[[int], Any]], steps: int, *, rounds: int = 1, warmup: int = 1, peer_keeps_memory: bool = False
) -> dict[str, list[float]]:
    """Seconds of every step of every side, taking turns in one process; a side is called with the number of a batch below ``steps``.

    Training here makes malloc keep freed memory for the next step; a peer (a side named ``trl...``) runs with the usual thresholds, as it
    does in a process of its own, unless ``peer_keeps_memory``. What one side freed stays for the other to take.
    """
    from posttrain.models import keep_freed_memory

    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for step in range(-warmup, steps * rounds):
        for name in names if (step + step // steps) % 2 == 0 else names[::-1]:  # a batch is not always begun by the same side
            gc.collect()
            keep_freed_memory(peer_keeps_memory or not name.startswith("trl"))
            begin = time.perf_counter()
            sides[name](max(step, 0) % steps)
            took = time.perf_counter() - begin
            if step >= 0:
                seconds[name].append(took)
            print(f"  step {step} {name}: {took:.2f} s", flush=True)
    return seconds


def summary(seconds: Mapping[str, list[float]], peer: str, *, steps: int) -> dict[str, dict[str, float]]:
    """Best and median seconds, and the peer's over each: best over best, median over median, and by the same batches.

    Batches differ, and the best step of either side is that of the batch that suits it best (the peer's: the one with the least padding).
    ``ratio_same_batches`` takes each side's best time of every batch, sums them and divides.
    """
    best, median = min(seconds[peer]), statistics.median(seconds[peer])
    mix = {name: sum(min(values[batch::steps]) for batch in range(steps)) for name, values in seconds.items()}
    return {
        name: {
            "best_s": round(min(values), 3),
            "median_s": round(statistics.median(values), 3),
            "ratio_best": round(best / min(values), 2),
            "ratio_median": round(median / statistics.median(values), 2),
            "ratio_same_batches": round(mix[peer] / mix[name], 2),
        }
        for name, values in seconds.items()
    }


def machine() -> str:
    """CPU model, threads and torch version."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line for line in lines if line.startswith("flags")), "")
    bf16 = "amx" if "amx_bf16" in flags else "avx512_bf16" if "avx512_bf16" in flags else "none"
    return f"{model}, {torch.get_num_threads()} threads, bf16 hardware: {bf16}, torch {torch.__version__}"


def report(name: str, **values: Any) -> None:
    """One line of JSON per result, for people and for `benchmarks/run.py`."""
    print("RESULT " + json.dumps({"benchmark": name, "machine": machine(), **values}), flush=True)
