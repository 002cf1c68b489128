#!/usr/bin/env python3
"""Trains a predictor of pages on dumped rows: the next row's page maxima from the 64 rows before it, squared error."""
import argparse
import pathlib
import sys
import time

import numpy as np
import torch

from predictor import HISTORY, Dump, Predictor, dumps_below

STRETCH = 48  # pages of a sample, at most


class Samples:
    """Windows of 64 rows of one KV head and the row behind them, drawn from all dumps. Batches are of one dump: of one width."""

    def __init__(self, dumps: list[Dump], seed: int):
        self.dumps = dumps
        self.draw = np.random.default_rng(seed)
        self.rows = [d.grouped(d.maxima).max(axis=1) for d in dumps]  # [layers * kv_heads, rows, pages]
        counts = np.array([r.shape[0] * max(0, r.shape[1] - HISTORY) for r in self.rows], dtype=np.float64)
        if counts.sum() == 0:
            raise SystemExit(f"every dump has at most {HISTORY} rows: nothing follows a whole history; dump more (--rows)")
        self.share = counts / counts.sum()
        self.scale = float(1 / np.sqrt(np.mean([np.mean(r ** 2) for r in self.rows])))

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        while True:
            at = self.draw.choice(len(self.dumps), p=self.share)
            dump, rows = self.dumps[at], self.rows[at]
            row = int(self.draw.integers(HISTORY, rows.shape[1]))  # the target
            # What is read anyway, at either end, hangs on the budget.
            first, near = int(self.draw.integers(0, 5)), int(self.draw.integers(1, 6))
            end = -(-dump.length(row) // dump.page) - near
            if end - first < 3:
                continue
            # A stretch of them says as much as all, in a fraction of the time.
            first += int(self.draw.integers(0, max(1, end - first - STRETCH + 1)))
            end = min(end, first + STRETCH)
            targets = np.minimum(rows.shape[1] - 1, row + np.arange(4))  # rows near each other have the same candidates but for one page
            pick = [(int(self.draw.integers(rows.shape[0])), int(targets[i % 4])) for i in range(size)]
            before = np.stack([rows[head, to - HISTORY:to, first:end] for head, to in pick])
            after = np.stack([rows[head, to, first:end] for head, to in pick])
            return torch.from_numpy(before * self.scale), torch.from_numpy(after * self.scale)


def train(dumps: list[Dump], out: pathlib.Path, steps: int, size: int, seed: int) -> float:
    """Returns the mean loss of the last tenth of the steps, as a share of that of predicting 0."""
    fingerprints = {dump.fingerprint for dump in dumps}
    if len(fingerprints) != 1:
        raise SystemExit("the dumps are of several models")
    torch.manual_seed(seed)
    samples = Samples(dumps, seed)
    model = Predictor()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.1)
    began, losses = time.time(), []
    for step in range(steps):
        before, after = samples.batch(size)
        error = (model(before) - after).square().mean()
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append((float(error.detach()), float(after.square().mean())))
        if (step + 1) % max(1, steps // 20) == 0:
            part = np.mean(losses[-max(1, steps // 20):], axis=0)
            print(f"step {step + 1} of {steps}: error {part[0] / part[1]:.4f} of predicting nothing, {time.time() - began:.0f} s", file=sys.stderr, flush=True)
    model.save(out, fingerprints.pop(), samples.scale)
    last = np.mean(losses[-max(1, steps // 10):], axis=0)
    return float(last[0] / last[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=pathlib.Path, required=True, help="directory with dumps below it")
    parser.add_argument("-o", "--out", type=pathlib.Path, required=True, help="predictor.safetensors")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    error = train(dumps_below(options.rows), options.out, options.steps, options.batch, options.seed)
    print(f"{options.out}: error {error:.4f} of predicting nothing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
