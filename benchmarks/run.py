"""Every benchmark, one process each, results gathered in benchmarks/results.jsonl (about an hour on 2 cores).

python benchmarks/run.py [name ...]
"""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
COMMANDS = {
    "sft": ["sft.py", "--size", "m135"],
    "sft-bf16": ["sft.py", "--size", "m135", "--dtype", "bfloat16", "--steps", "3"],
    "sft-lora": ["sft.py", "--size", "m135", "--lora", "--packed"],
    "sft-tiny": ["sft.py", "--size", "tiny", "--steps", "10"],
    "sft-gradients": ["sft.py", "--size", "tiny", "--gradients"],
    "sft-gradients-lora": ["sft.py", "--size", "tiny", "--gradients", "--lora"],
    "memory-ours": ["sft.py", "--memory", "ours", "--steps", "3"],
    "memory-trl": ["sft.py", "--memory", "trl", "--steps", "3"],
    "dpo": ["dpo.py", "--size", "m135"],
    "dpo-tiny": ["dpo.py", "--size", "tiny", "--steps", "8"],
    "dpo-dialogues": ["dpo.py", "--size", "m135", "--dialogues"],
    "dpo-gradients": ["dpo.py", "--size", "tiny", "--gradients"],
    "dpo-memory-ours": ["dpo.py", "--memory", "ours", "--steps", "3"],
    "dpo-memory-trl": ["dpo.py", "--memory", "trl", "--steps", "3"],
    "dpo-memory-trl-precomputed": ["dpo.py", "--memory", "trl", "--precomputed", "--steps", "3"],
    "reference": ["reference_pass.py"],
    "kto": ["kto.py", "--size", "m135"],
    "kto-tiny": ["kto.py", "--size", "tiny", "--steps", "8"],
    "kto-gradients": ["kto.py", "--size", "tiny", "--gradients"],
    "kto-memory-ours": ["kto.py", "--memory", "ours", "--steps", "3"],
    "kto-memory-trl": ["kto.py", "--memory", "trl", "--steps", "3"],
    "reward": ["reward_model.py", "--size", "m135", "--dtype", "bfloat16"],
    "reward-float32": ["reward_model.py", "--size", "m135"],
    "reward-tiny": ["reward_model.py", "--size", "tiny", "--steps", "10"],
    "reward-gradients": ["reward_model.py", "--size", "tiny", "--gradients"],
    "reward-memory-ours": ["reward_model.py", "--memory", "ours", "--dtype", "bfloat16", "--steps", "3"],
    "reward-memory-trl": ["reward_model.py", "--memory", "trl", "--dtype", "bfloat16", "--steps", "3"],
    "attention": ["attention.py"],
    "shared-reports": ["shared_reports.py"],
    "ppo": ["ppo.py", "--size", "m135"],
    "ppo-tiny": ["ppo.py", "--size", "tiny", "--copies"],
    "generation": ["generation.py"],
    "render-mask": ["render_mask.py"],
    "data-readers": ["data_readers.py", "--megabytes", "192"],
}


def main() -> None:
    names = sys.argv[1:] or list(COMMANDS)
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    for name in names:
        script, *arguments = COMMANDS[name]
        print(f"== {name}: {script} {' '.join(arguments)}", flush=True)
        done = subprocess.run(
            [sys.executable, HERE / script, *arguments], stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE.parent
        )
        results = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        print(done.stdout[-1500:] if not results else "\n".join(results), flush=True)
        with open(HERE / "results.jsonl", "a", encoding="utf-8") as stream:
            for line in results:
                stream.write(json.dumps({"name": name, **json.loads(line)}) + "\n")


if __name__ == "__main__":
    main()
