"""The attention kernel beside the products it replaces: one layer of the 135M shape, eight pairs of the DPO benchmark, bfloat16.

    python benchmarks/attention.py

Prints milliseconds forward and backward (best of 20) and the relative error of output and gradients against float64, of both.
"""

import time
from collections.abc import Callable
from typing import Any

from common import report
from dpo import draw_pairs, pair_items

import torch  # isort: skip


def best_ms(run: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(20):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return round(min(seconds) * 1e3, 2)


def main() -> None:
    from posttrain.models import attention, build_forest, keep_freed_memory, native

    keep_freed_memory()
    forest = build_forest([row for item in pair_items(draw_pairs(8, dialogues=False)) for row in item.sequences])
    length, nodes = len(forest.input_ids), forest.nodes
    torch.manual_seed(0)
    grad, q, k, v = (torch.randn(1, length, heads, 64).to(torch.bfloat16) for heads in (9, 9, 3, 3))
    inputs = [tensor.transpose(1, 2) for tensor in (q, k, v)]

    def both(dtype: torch.dtype) -> list[torch.Tensor]:
        wide = [tensor.to(dtype) for tensor in inputs]
        out = attention.forest_forward(*wide, nodes, 0.125, 0, 0.0)
        return [out, *attention.forest_backward(grad.to(dtype), *wide, nodes, 0.125, 0, 0.0)]

    exact, sides = both(torch.float64), {}
    kernel = native.kernel_in_use(torch.bfloat16, torch.device("cpu"))
    for name in ("products",) if kernel == "products" else ("kernel", "products"):
        if name == "products":
            native.has_kernel = lambda *_: False  # type: ignore[assignment]
        errors = [float((found.double() - true).norm() / true.norm()) for found, true in zip(both(torch.bfloat16), exact, strict=True)]
        sides[name] = {
            "forward_ms": best_ms(lambda: attention.forest_forward(*inputs, nodes, 0.125, 0, 0.0)),
            "backward_ms": best_ms(lambda: attention.forest_backward(grad, *inputs, nodes, 0.125, 0, 0.0)),
            "error_out_q_k_v": [round(error, 5) for error in errors],
        }
    report("attention", tokens=length, nodes=len(nodes), sides=sides)


if __name__ == "__main__":
    main()
