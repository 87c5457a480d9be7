"""A reference pass of several processes in which one of them fails: under torchrun every process writes what stopped it, scenario by
scenario, to ``OUT/<rank>.json``. As a program: ``python tiny_reference.py OUT``.
"""

import json
import resource
import sys
from pathlib import Path

import torch
from tiny_run import build_policy, build_sequences

from posttrain.training import open_world, reference_logprobs


def before_the_pass(folder, world, policy):
    """The first process cannot lock the folder."""
    if world.is_main:
        (folder / ".lock").mkdir(parents=True)
    world.wait()


def in_the_second_process(folder, world, policy):
    """A forward pass of the second process fails."""
    if world.rank == 1:
        policy.logprobs = fail


def while_writing(folder, world, policy):
    """The first process cannot write: files may have 600 bytes."""
    if world.is_main:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))


def fail(*_, **__):
    raise RuntimeError("no memory left")


def main():
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    found = {}
    with open_world() as world:
        for break_it in (before_the_pass, in_the_second_process, while_writing):
            policy, folder = build_policy(), out / break_it.__name__
            break_it(folder, world, policy)
            try:
                reference_logprobs(policy, build_sequences(), folder, contract="c", max_tokens=100, world=world)
                found[break_it.__name__] = "nothing"
            except Exception as error:
                found[break_it.__name__] = f"{type(error).__name__}: {error}"
        if world.is_main:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (out / f"{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
