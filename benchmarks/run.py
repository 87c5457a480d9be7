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
    "shared-reports": ["shared_reports.py"],
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
