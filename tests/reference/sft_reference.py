"""Supervised fine-tuning in plain Python: one token after the other, no library but math."""

import math


def sft_reference(logits, input_ids, completion_mask):
    """(sum of -log p, number of tokens) for one sequence.

    logits: for each position a list of numbers, those that predict the next token. input_ids, completion_mask: per position.
    """
    total, count = 0.0, 0
    for position in range(1, len(input_ids)):
        if not completion_mask[position]:
            continue
        row = logits[position - 1]
        highest = max(row)
        log_normaliser = highest + math.log(sum(math.exp(value - highest) for value in row))
        total += log_normaliser - row[input_ids[position]]
        count += 1
    return total, count
