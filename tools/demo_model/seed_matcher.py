"""Gives one unused attention head a start as a matcher of shapes, in a checkpoint of train.py.

    python seed_matcher.py RUN/last.pt --layer 1 --head 3

What colour a shape has asks for a head that compares a word with what it looks for: its queries and its keys must come to
agree, and while neither does, neither gets a gradient that says how. Of the five shapes only the triangle had found its
match after 4,600 steps. Here the keys of visual tokens are projected onto the directions that tell the shapes apart, and
the queries of the shapes' words onto the same ones, on the four slowest rotary frequencies; what the head does with what
it finds is left to the training (its output projection starts at zero). Take a head whose loss does not rise when its
output is cut off.
"""
import argparse

import numpy as np
import torch

import tokenizer as tokenizer_module
from batches import Packer, make_batch
from config import Config
from model import DemoModel, patchify
from scenes import SHAPES, Renderer

SCALE = 7.5                          # length of a matching query and key: logits then differ by about 9


@torch.no_grad()
def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("checkpoint")
    ap.add_argument("--layer", type=int, default=1)
    ap.add_argument("--head", type=int, default=3)
    args = ap.parse_args()
    state = torch.load(args.checkpoint, map_location="cpu")
    cfg = Config()
    model = DemoModel(cfg)
    model.load_state_dict(state["model"])
    packer, renderer = Packer(tokenizer_module.build()), Renderer()
    words = [packer.ids(" " + s)[0] for s in SHAPES]
    attention = model.model.layers[args.layer].self_attn
    inputs = []
    attention.register_forward_pre_hook(lambda module, given: inputs.append(given[0].float()))
    seen, asked = [[] for _ in SHAPES], [[] for _ in SHAPES]
    rng = np.random.default_rng(1234)
    for slices in (6, 12) * 4:
        batch = make_batch(rng, packer, renderer, 8, slices, 4, shares=[1, 0, 0, 0, 0, 0, 0])
        inputs.clear()
        model(patchify(batch["frames"]).to(torch.bfloat16), batch["prefix"], batch["text"], batch["positions"], batch["groups"])
        x, first = inputs[0], len(batch["prefix"])
        labels = batch["cells"].flatten(1, 3)[..., 1]
        video = x[:, first:first + labels.shape[1]]
        text = x[:, first + labels.shape[1]:]
        for s, word in enumerate(words):
            seen[s].append(video[labels == s + 1])
            asked[s].append(text[batch["text"] == word])
    keys = torch.stack([torch.cat(v).mean(0) for v in seen])           # [shapes, hidden]
    queries = torch.stack([torch.cat(v).mean(0) for v in asked])
    middle = keys.mean(0)
    basis = torch.linalg.svd(keys - middle, full_matrices=False).Vh[:len(SHAPES) - 1]
    targets = (keys - middle) @ basis.T                                # [shapes, 4]
    size = targets.norm(dim=1).mean()
    project_k = basis * (SCALE / size)
    centred = queries - queries.mean(0)
    project_q = torch.linalg.lstsq(centred, targets * (SCALE / size)).solution.T
    d = attention.hd
    kv = args.head // (attention.nh // attention.nkv)
    half = d // 2
    rows = torch.arange(half - len(basis), half)                       # the slowest frequencies, first of each pair
    q0, k0 = args.head * d, kv * d
    attention.q_proj.weight[q0:q0 + d] = 0
    attention.q_proj.bias[q0:q0 + d] = 0
    attention.q_proj.weight[q0 + rows] = project_q
    attention.q_proj.bias[q0 + rows] = -project_q @ queries.mean(0)
    for r in (rows, rows + half):
        attention.k_proj.weight[k0 + r] = 0
        attention.k_proj.bias[k0 + r] = 0
    attention.k_proj.weight[k0 + rows] = project_k
    attention.k_proj.bias[k0 + rows] = -project_k @ middle
    attention.o_proj.weight[:, q0:q0 + d] = 0
    q = queries @ project_q.T + attention.q_proj.bias[q0 + rows]
    k = keys @ project_k.T + attention.k_proj.bias[k0 + rows]
    print("logits, words down, shapes across:\n", (q @ k.T / d ** 0.5 * 1.0).round(decimals=2))
    state["model"] = model.state_dict()
    torch.save(state, args.checkpoint)


if __name__ == "__main__":
    main()
