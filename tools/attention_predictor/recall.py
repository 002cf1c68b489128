#!/usr/bin/env python3
"""How much of the attention of an answer's rows the chosen pages hold, at equal budgets: the trained predictor, the average, and the best there is.

Queries are those of full attention; histories are what the engine's would be: the prompt's last rows whole, then each
step's row over the pages that it read, and every refresh-th over all."""
import argparse
import pathlib
import sys

import numpy as np
import torch

from predictor import HISTORY, Dump, Predictor, candidates, dumps_below


def averages(history: np.ndarray, decay: float = 0.9) -> np.ndarray:
    return np.einsum("nrp,r->np", history.astype(np.float64), decay ** np.arange(HISTORY - 1, -1, -1))


def predicted(model: Predictor, history: np.ndarray) -> np.ndarray:
    if history.shape[2] < 3:
        return np.zeros(history.shape[::2])
    with torch.no_grad():
        return model(torch.from_numpy(np.ascontiguousarray(history))).numpy()


def steps_of(dump: Dump, most: int | None, share: float, refresh: int, score) -> list[float]:
    """score(history [n, 64, candidates], mass [n, candidates]) -> [n, candidates]. Per step: the mean over layers and heads."""
    maxima, mass = dump.grouped(dump.maxima), dump.grouped(dump.mass)  # [n, group, rows, pages]
    begin = max(HISTORY, dump.rows - (dump.tokens - dump.prompt))  # the first row of the answer
    if most is None:
        most = max(1, int(share * dump.prompt))
    history = maxima[:, :, begin - HISTORY:begin].max(axis=1)
    found = []
    for step, row in enumerate(range(begin, dump.rows), 1):
        length = dump.length(row)
        if most >= length:
            continue
        first, end, wanted = candidates(length, most, dump.page)
        read = np.zeros((maxima.shape[0], maxima.shape[3]), dtype=bool)
        read[:, :first] = read[:, end:] = True
        scores = score(history[:, :, first:end], mass[:, :, row, first:end].mean(axis=1))
        best = np.argsort(-scores, axis=1, kind="stable")[:, :wanted]
        read[np.arange(len(best))[:, None], first + best] = True
        held = (mass[:, :, row] * read[:, None]).sum(axis=2)  # [n, group]
        found.append(float(held.mean()))
        if step % refresh == 0:
            now = maxima[:, :, row].max(axis=1)
        else:
            now = (maxima[:, :, row] * read[:, None] / np.maximum(held, 1e-30)[:, :, None]).max(axis=1)
        history = np.concatenate([history[:, 1:], now[:, None].astype(np.float32)], axis=1)
    return found


def compare(dumps: list[Dump], model: Predictor, shares: list[float], refresh: int) -> list[dict]:
    ways = {"trained": lambda history, mass: predicted(model, history), "ema": lambda history, mass: averages(history), "best": lambda history, mass: mass}
    rows = []
    for share in shares:
        row = {"share": share}
        of_dumps = {name: [np.mean(found) for d in dumps if (found := steps_of(d, None, share, refresh, way))] for name, way in ways.items()}
        for name, values in of_dumps.items():
            row[name] = float(np.mean(values))
        row["better"] = int(np.sum(np.array(of_dumps["trained"]) > np.array(of_dumps["ema"])))
        row["of"] = len(of_dumps["ema"])
        rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=pathlib.Path, required=True, help="directory with dumps below it, of prompts not trained on")
    parser.add_argument("--predictor", type=pathlib.Path, required=True)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.1, 0.2, 0.3], help="shares of the prompt that a step reads")
    parser.add_argument("--refresh", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = compare(dumps_below(options.rows), Predictor.load(options.predictor), options.budgets, options.refresh)
    print("| budget | trained | ema | best possible | prompts where trained holds more |\n|---:|---:|---:|---:|---:|")
    for row in rows:
        print(f"| {row['share']:g} | {row['trained']:.4f} | {row['ema']:.4f} | {row['best']:.4f} | {row['better']} of {row['of']} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
