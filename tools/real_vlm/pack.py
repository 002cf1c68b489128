"""Tower and factors of checkpoints alone, in bf16: small enough to keep.

    python pack.py RUN/last.pt [MORE.pt ..] learned.safetensors     several are averaged

Also takes what it has written before, in place of a checkpoint.
"""
import sys

import torch

import weights


def load(path):
    if path.endswith(".safetensors"):
        return weights.read(path)
    return {name: p.float().numpy() for name, p in torch.load(path, map_location="cpu")["learned"].items()}


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    *paths, target = sys.argv[1:]
    states = [load(path) for path in paths]
    weights.write(target, {name: sum(state[name] for state in states) / len(states) for name in states[0]})


if __name__ == "__main__":
    main()
