"""19: the policy runs away from its reference while it chases the reward."""

from pathlib import Path

from posttrain.drills.harness import Found, drill
from posttrain.drills.reward_runs import FILLING, padded, train_reward_model
from posttrain.drills.setup import write_rows
from posttrain.drills.yes_no import question, read_run, run_stage, start_model


@drill(
    "kl-runaway",
    number=19,
    fault="ppo without a KL tax at ten times the learning rate",
    expects=r"runs away from its reference: KL budget: (the last policy measures )?[\d.]+ nats per answer, 4 allowed",
)
def kl_runaway(folder: Path, faulty: bool) -> Found:
    """A few updates against an honest reward model, under a budget of four nats an answer."""
    model = start_model(folder, others=FILLING)
    reward = folder.parent / "reward"
    if not reward.is_dir():
        train_reward_model(reward, model, padded, is_loved=False)
    training = {"max_steps": 6, "sequences_per_step": 16, "schedule": "constant", "warmup_ratio": 0.0, "seed": 3}
    settings = {
        "data": str(write_rows(folder / "prompts.jsonl", [{"prompt": question(number)} for number in range(100, 132)])),
        "held_out": str(write_rows(folder / "held_out.jsonl", [{"prompt": question(number)} for number in range(200, 216)])),
        "reward_model": str(reward / "run" / "model"),
        "max_new_tokens": 12,
        "lora": {"rank": 8, "targets": "attention+mlp"},
        "kl": {"name": "fixed", "coefficient": 0.0 if faulty else 0.2},
        "kl_budget": 4.0,
        "epochs_per_update": 2,
        "training": training | {"learning_rate": 5e-2 if faulty else 5e-3, "checkpoint_every_steps": 1000},
    }
    run_stage("ppo", folder, model, settings)
    return read_run(folder, "highest kl", "reward_gain")
