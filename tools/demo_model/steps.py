"""What every training run here needs: the plan of lengths, scores per question type, workers that step together."""
import numpy as np
import torch

from questions import TYPES


def parse_plan(text):
    """'step:SLICESxGRID*WEIGHT,..;step:..' -> [(step, [(slices, grid), ..])] in order."""
    plan = []
    for stage in text.split(";"):
        step, items = stage.split(":")
        mix = []
        for item in items.split(","):
            shape, _, weight = item.partition("*")
            slices, grid = (int(v) for v in shape.split("x"))
            mix += [(slices, grid)] * int(weight or 1)
        plan.append((int(step), mix))
    return plan


def score(logits_right, batch, chosen, tally):
    """Counts answers with every token right, per type."""
    b = batch["target"].shape[0]
    key = (torch.arange(b)[:, None] * 10000 + batch["number"])[chosen].cpu().numpy()
    kind = batch["kind"][chosen].cpu().numpy()
    right = logits_right.cpu().numpy()
    order, start = np.unique(key, return_index=True)
    wrong = np.unique(key[~right])
    good = ~np.isin(order, wrong)
    for k in range(len(TYPES)):
        of_type = kind[start] == k
        tally[k] += (good[of_type].sum(), of_type.sum())


def average_gradients(params, workers):
    """One all-reduce over all gradients. A worker per core beats threads inside every operation, above all when the
    cores are shared with other work: the workers meet once a step, not at every small matrix."""
    if workers == 1:
        return
    params = [p for p in params if p.grad is not None]
    flat = torch.cat([p.grad.flatten() for p in params])
    torch.distributed.all_reduce(flat)
    at = 0
    for p in params:
        p.grad.copy_(flat[at:at + p.numel()].view_as(p) / workers)
        at += p.numel()


def stop_together(late, workers):
    """True in all workers once the first one says so (their clocks may differ by a step)."""
    flag = torch.tensor(float(late))
    if workers > 1:
        torch.distributed.all_reduce(flag)
    return bool(flag > 0)
