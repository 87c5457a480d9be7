"""TRL's own trainers around a tiny model: its collators make the batches, its methods the losses. Nothing of theirs is copied here."""

import random
import warnings
from functools import cache

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

VOCABULARY = 40
CONFIG = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
    "initializer_range": 0.15,
}
MAX_LENGTH = 12
BATCHES = ("random", "ties", "single_token", "empty_prompt", "truncated")


def tiny_model(seed, kind=LlamaForCausalLM, **changes):
    torch.manual_seed(seed)
    return kind(LlamaConfig(**CONFIG, **changes))


def draw_pairs(batch, *, count=5):
    """Token ids of pairs: prompt_ids, chosen_ids, rejected_ids, of differing lengths, so that TRL pads.

    truncated: longer than MAX_LENGTH, where TRL cuts the end off; one pair keeps no token of its completions.
    """
    draw = random.Random(BATCHES.index(batch))

    def ids(least, most):
        return [draw.randrange(2, VOCABULARY) for _ in range(draw.randint(least, most))]

    longest = {"single_token": 1, "truncated": 14}.get(batch, 6)
    prompt = (0, 0) if batch == "empty_prompt" else (2, 5)
    least = {"single_token": 1, "empty_prompt": 2}.get(batch, 1)
    pairs = [{"prompt_ids": ids(*prompt), "chosen_ids": ids(least, longest), "rejected_ids": ids(least, longest)} for _ in range(count)]
    if batch == "ties":
        pairs[0]["rejected_ids"] = list(pairs[0]["chosen_ids"])
        pairs[1]["rejected_ids"] = list(pairs[1]["chosen_ids"])
    if batch == "truncated":
        pairs[0]["prompt_ids"] = ids(MAX_LENGTH, MAX_LENGTH)
    return pairs


@cache
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, VOCABULARY)}}, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def build_peer(name, folder):
    """TRL's trainer of one kind around ``tiny_model(0)``, with ``tiny_model(1)`` as its reference where it takes one."""
    import trl
    from datasets import Dataset, disable_progress_bars
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    pair = {"prompt": "w3 w4", "chosen": " w5 w6", "rejected": " w7"}
    labels = [{"prompt": "w3", "completion": f" w{4 + number}", "label": bool(number)} for number in range(2)]
    trainer, config, rows, settings = {
        "dpo": (trl.DPOTrainer, trl.DPOConfig, [pair], {"max_length": MAX_LENGTH}),
        "kto": (trl.KTOTrainer, trl.KTOConfig, labels, {"max_length": MAX_LENGTH, "per_device_train_batch_size": 2}),
        "reward": (trl.RewardTrainer, trl.RewardConfig, [pair], {}),
        "cpo": (CPOTrainer, CPOConfig, [pair], {"cpo_alpha": 0.0, "loss_type": "simpo", "remove_unused_columns": False}),
        "orpo": (ORPOTrainer, ORPOConfig, [pair], {"remove_unused_columns": False}),
    }[name]
    model = tiny_model(0, LlamaForSequenceClassification, num_labels=1) if name == "reward" else tiny_model(0)
    reference = {"ref_model": tiny_model(1)} if name in ("dpo", "kto") else {}
    disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their constructors warn of their own deprecations
        arguments = config(output_dir=str(folder), report_to="none", use_cpu=True, bf16=False, disable_tqdm=True, **settings)
        return trainer(model=model, args=arguments, processing_class=tokenizer(), train_dataset=Dataset.from_list(rows), **reference)


def concatenated_batch(pairs, collator):
    """A batch of the CPO and ORPO trainers' collator from token ids, cut at MAX_LENGTH: what their ``tokenize_row`` makes of texts."""
    features = []
    for pair in pairs:
        feature = {}
        for side in ("chosen", "rejected"):
            ids = (pair["prompt_ids"] + pair[f"{side}_ids"])[:MAX_LENGTH]
            start = min(len(pair["prompt_ids"]), MAX_LENGTH)
            feature |= {f"{side}_input_ids": ids, f"{side}_attention_mask": [1] * len(ids)}
            feature[f"{side}_labels"] = [-100] * start + ids[start:]
        features.append(feature)
    return collator(features)
