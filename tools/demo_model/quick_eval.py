"""The accuracy of evaluate.py in a minute: all questions about a video in one pass of the training module.

    python quick_eval.py WEIGHTS [--questions FILE] [--videos N per length]      WEIGHTS: a .safetensors or a checkpoint .pt

An answer counts when every one of its tokens is the most likely one given the reference before it, which is the case
exactly when greedy decoding writes the reference.
"""
import argparse
import collections
import json
import os
import types

import torch

import hf
import tokenizer as tokenizer_module
from batches import IGNORE, Packer
from evaluate import table
from config import Config
from model import DemoModel, patchify


def weights(path):
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file
        return {k: v.float() for k, v in load_file(path).items()}
    return torch.load(path, map_location="cpu")["model"]


@torch.no_grad()
def ask_all(model, packer, frames, asked, dtype):
    """[right or wrong per question] for uint8 frames [n, S, S, 3]."""
    slots = [packer.slot([types.SimpleNamespace(**q)]) for q in asked]
    rows = max(len(s[0]) for s in slots)
    slices, grid = len(frames) // 2, frames.shape[1] // 28
    groups = ((len(slots), rows),)
    text = packer.vision_end + [i for s in slots for i in s[0] + [packer.pad] * (rows - len(s[0]))]
    positions = torch.from_numpy(packer.positions(slices, grid, 1.0, groups))[:, None]
    hidden, _, _ = model(patchify(frames[None]).to(dtype), torch.tensor(packer.prefix), torch.tensor([text]), positions, groups)
    guess = model.logits(hidden).float()[0].argmax(-1).view(len(slots), rows)
    out = []
    for s, g in zip(slots, guess):
        want = torch.tensor(s[1])
        out.append(bool((g[:len(want)] == want)[want != IGNORE].all()))
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("weights")
    ap.add_argument("--questions", required=True)
    ap.add_argument("--videos", type=int, default=10 ** 6)
    ap.add_argument("--lengths", default="short,medium,long")
    ap.add_argument("--dtype", default="bfloat16")
    args = ap.parse_args()
    model = DemoModel(Config())
    model.load_state_dict(weights(args.weights))
    packer = Packer(tokenizer_module.build())
    by_video, score, used = collections.OrderedDict(), collections.defaultdict(lambda: [0, 0]), collections.Counter()
    with open(args.questions) as f:
        for q in map(json.loads, f):
            by_video.setdefault((q["length"], q["video"]), []).append(q)
    lengths = args.lengths.split(",")
    for (length, name), asked in by_video.items():
        if length not in lengths or used[length] >= args.videos:
            continue
        used[length] += 1
        frames = hf.read_video(os.path.join(os.path.dirname(args.questions), name)).permute(0, 2, 3, 1).contiguous()
        for q, good in zip(asked, ask_all(model, packer, frames, asked, getattr(torch, args.dtype))):
            score[length, q["type"]][0] += good
            score[length, q["type"]][1] += 1
    print(table(score, lengths))


if __name__ == "__main__":
    main()
