"""Random inputs of every preference objective, by the standard names, and the settings they are tried under."""

import torch

CASES = [
    ("dpo", {}),
    ("dpo", {"beta": 0.7, "label_smoothing": 0.2}),
    ("robust_dpo", {"beta": 0.5, "label_smoothing": 0.3}),
    ("ipo", {}),
    ("ipo", {"beta": 0.4, "average_logps": True}),
    ("orpo", {"beta": 0.3}),
    ("simpo", {}),
    ("kto", {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.7}),
    ("bradley_terry", {"center": 0.1}),
]
PAIRED = [case for case in CASES if case[0] != "kto"]


def draw_inputs(count, *, seed=0, dtype=torch.float64, probabilities=True, spread=3.0):
    """Every standard tensor of ``count`` pairs or sequences; log-probabilities at most 0, policy near its reference."""
    draw = torch.Generator().manual_seed(seed)

    def normal():
        return torch.randn(count, generator=draw, dtype=torch.float64)

    lengths = {side: torch.randint(1, 40, (count,), generator=draw) for side in ("chosen", "rejected")}
    named = {"kl": torch.tensor(0.3, dtype=dtype), "labels": torch.rand(count, generator=draw) < 0.5}
    for side, length in lengths.items():
        named[f"{side}_lengths"] = length
        ref = -length * (0.2 + torch.rand(count, generator=draw, dtype=torch.float64))
        named[f"ref_{side}_logps"] = ref.to(dtype)
        named[f"policy_{side}_logps"] = (ref + spread * normal()).clamp(max=-1e-3).to(dtype)
        named[f"{side}_rewards"] = normal().to(dtype)
    named["policy_logps"], named["ref_logps"] = named["policy_chosen_logps"], named["ref_chosen_logps"]
    named["margins"] = torch.rand(count, generator=draw, dtype=torch.float64).to(dtype)
    if probabilities:
        named["probabilities"] = torch.rand(count, generator=draw, dtype=torch.float64).to(dtype)
    return named
