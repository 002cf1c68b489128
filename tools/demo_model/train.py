"""Trains the demo model. Deterministic from a seed, resumable, stops at a given time with the learning rate at zero.

    python train.py --out DIR --minutes 120                 from nothing
    python train.py --out DIR --minutes 60 --resume         from DIR/last.pt, with a fresh schedule
    python train.py --out DIR --minutes 60 --start MODEL    from published weights (model.safetensors) alone

The loss is that of the answers, plus two auxiliary ones that teach the tower to see and the decoder to place things
long before the answers' gradient would: colour, shape, motion, place and time of a cell from the tower's tokens; the
same and the order of appearance from the decoder's visual rows in mid-depth. They fade out with the learning rate.
Every batch is new, so the accuracy of the training batches (all answer tokens right, teacher forced, which is what greedy
decoding would give) is an accuracy on unseen videos; DIR/curve.jsonl gets it per question type and length.
"""
import argparse
import json
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import tokenizer as tokenizer_module
from batches import IGNORE, Packer, make_batch
from config import Config, read_layer_map
from model import DemoModel, fused, patchify
from questions import TYPES
from scenes import COLOUR_NAMES, SHAPES, Renderer
from steps import average_gradients, parse_plan, score, stop_together

CLASSES = (7, 6, 6, 6, 3, 4)         # colour, shape, motion, rank, third of the video, quadrant of a cell
TAPS = (1, 3)                        # decoder layers whose visual rows carry auxiliary heads
NAMED_LAYERS = (0, 3)              # decoder layers after which text rows know shape and colour of the object they are about
TAP_CLASSES = {"tower": (0, 1, 2, 4, 5), 1: (4, 5), 3: (0, 1, 2, 3, 4, 5)}
PLAN = "0:6x4;900:6x4,12x4*2;1400:6x4,12x4*3,8x6,24x4;2000:6x4,12x4*3,8x6,24x4*2,48x4"


class Heads(nn.Module):
    """Linear classifiers for the auxiliary losses; not part of the exported model."""

    def __init__(self, size):
        super().__init__()
        self.heads = nn.ModuleDict({str(k): nn.Linear(size, sum(CLASSES[c] for c in v)) for k, v in TAP_CLASSES.items()})
        self.named = nn.ModuleList([nn.Linear(size, len(SHAPES)), nn.Linear(size, len(COLOUR_NAMES))])

    def named_loss(self, rows, labels):
        """From the word on that names an object by its shape alone, rows must know the shape after the first layer and
        the object's colour after the fourth: the steps to an answer that the answer itself taught for triangles only, in
        5,500 steps. Returns the loss and the share of rows that know."""
        on = labels >= 0
        if not on.any():                                     # every worker has every gradient
            return 0 * sum(p.sum() for p in self.named.parameters()), [float("nan")] * 2
        total, known = 0.0, []
        for head, layer, want in zip(self.named, NAMED_LAYERS, (labels[on] // len(COLOUR_NAMES), labels[on] % len(COLOUR_NAMES))):
            guess = head(rows["text", layer][on].float())
            total = total + F.cross_entropy(guess, want)
            known.append((guess.argmax(-1) == want).float().mean().item())
        return total, known

    def loss(self, where, rows, labels):
        """Mean loss over the classifiers at `where`; object cells weigh as much as all others together."""
        out = self.heads[str(where)](rows.float())
        total, at = 0.0, 0
        for c in TAP_CLASSES[where]:
            part, want = out[..., at:at + CLASSES[c]], labels[..., c]
            at += CLASSES[c]
            each = F.cross_entropy(part.flatten(0, -2), want.flatten(), ignore_index=-1, reduction="none").view(want.shape)
            on = labels[..., 0] > 0
            off = labels[..., 0] == 0
            total = total + 0.5 * ((each * on).sum() / on.sum().clamp(min=1) + (each * off).sum() / off.sum().clamp(min=1))
        return total / len(TAP_CLASSES[where])


def align_loss(rows, labels, embedding, words):
    """Makes an object's token point where the words for its colour and its shape point: a question that names one of
    them then finds the token by a product that attention starts from. `words`: ids of the colours, of the shapes."""
    directions = F.normalize(rows.float(), dim=-1)
    total = 0.0
    for c, ids in enumerate(words):
        logits = 10 * directions @ F.normalize(embedding[ids].float(), dim=-1).T
        on = labels[..., c] > 0
        total = total + F.cross_entropy(logits[on], labels[..., c][on] - 1)
    return total / len(words)


@torch.no_grad()
def accuracy(heads, rows, labels):
    """Share of object cells (all cells for time and place) that each auxiliary classifier gets right."""
    out = {}
    for where, x in rows.items():
        guess, at, hit = heads.heads[str(where)](x.float()), 0, []
        for c in TAP_CLASSES[where]:
            right = guess[..., at:at + CLASSES[c]].argmax(-1) == labels[..., c]
            at += CLASSES[c]
            hit.append(right[labels[..., 0] > 0].float().mean().item() if c < 4 else right.float().mean().item())
        out[str(where)] = hit
    return out


def optimizers(model, heads, lr, muon, rank=0, workers=1):
    """AdamW; with `muon`, matrices inside blocks get orthogonalised momentum instead (same scale of step).

    Orthogonalising is dear on a CPU, so every worker does its share of the matrices; `share_updates` then joins them.
    """
    matrices, rest = [], list(heads.parameters())
    for name, p in model.named_parameters():
        (matrices if muon and p.dim() == 2 and "embed_tokens" not in name else rest).append(p)
    out = [torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)]
    if matrices:
        out.append(torch.optim.Muon(matrices[rank::workers], lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))
    return out, matrices


def load_weights(model, state):
    """All that the model has; what layers that read another's keys and values have no use for is left."""
    own = set(model.state_dict())
    model.load_state_dict({name: tensor.float() for name, tensor in state.items() if name in own})


def save(path, model, heads, opts, step, rank, workers):
    """Write a checkpoint (worker 0, with every worker's optimiser state); a reader never sees half of one."""
    states = [None] * workers
    if workers > 1:
        torch.distributed.gather_object([o.state_dict() for o in opts], states if rank == 0 else None)
    else:
        states = [[o.state_dict() for o in opts]]
    if rank == 0:
        torch.save({"model": model.state_dict(), "heads": heads.state_dict(), "step": step, "opts": states,
                    "layer_map": model.cfg.layer_map}, path + ".new")
        os.replace(path + ".new", path)


@torch.no_grad()
def share_updates(matrices, rank, workers):
    """Worker r has stepped matrices[r::workers]; after this all workers have all of them."""
    if workers == 1 or not matrices:
        return
    flat = torch.cat([(p if i % workers == rank else torch.zeros_like(p)).flatten() for i, p in enumerate(matrices)])
    torch.distributed.all_reduce(flat)
    at = 0
    for p in matrices:
        p.copy_(flat[at:at + p.numel()].view_as(p))
        at += p.numel()


def rehearse(model, packer, renderer):
    """One forward and backward pass of two lengths, so that compiling is done before the run begins."""
    for slices in (6, 12):
        batch = make_batch(np.random.default_rng(0), packer, renderer, 2, slices, 4)
        hidden, _, _ = model(patchify(batch["frames"]).to(torch.bfloat16), batch["prefix"], batch["text"], batch["positions"],
                             batch["groups"], TAPS)
        hidden.float().sum().backward()
    model.zero_grad(set_to_none=True)


def arguments():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--out", required=True)
    ap.add_argument("--minutes", type=float, default=120)
    ap.add_argument("--decay-minutes", type=float, default=35, help="length of the final linear decay of the learning rate")
    ap.add_argument("--resume", action="store_true")
    ap.add_argument("--start", help="directory with model.safetensors")
    ap.add_argument("--layer-map", help="JSON list of windows and shared keys and values, as purekv_layer_map says them")
    ap.add_argument("--f32", action="store_true", help="compute in f32: faster where a CPU has no bf16 products")
    ap.add_argument("--wait-for", help="get ready, then wait for this file before reading the checkpoint")
    ap.add_argument("--until", help="HH:MM (UTC) instead of --minutes")
    ap.add_argument("--fresh", action="store_true", help="resume weights only, not the optimiser state")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--lr", type=float, default=1.5e-3)
    ap.add_argument("--muon-scale", type=float, default=2.0, help="learning rate of the matrices, relative to --lr")
    ap.add_argument("--warmup", type=int, default=100)
    ap.add_argument("--batch", type=int, default=32, help="videos per batch at short lengths")
    ap.add_argument("--plan", default=PLAN, help="curriculum, see parse_plan")
    ap.add_argument("--aux", type=float, default=0.5)
    ap.add_argument("--shares", help="share of each short question type, as colour,shape,place,time,motion,order,count; default: every "
                    "type in every video")
    ap.add_argument("--by-shape", type=float, default=0.5, help="share of place, time and motion questions that name the object "
                    "by its shape alone")
    ap.add_argument("--short-weight", type=float, default=5.0, help="weight of a short answer's tokens, a description's being 1")
    ap.add_argument("--named", type=float, default=0.5, help="weight of Heads.named_loss")
    ap.add_argument("--align", type=float, default=0.3, help="weight of align_loss")
    ap.add_argument("--turns", type=float, default=0.0, help="share of batches with real conversations")
    ap.add_argument("--adamw", action="store_true", help="AdamW for everything instead of Muon for the matrices")
    ap.add_argument("--tower-steps", type=int, default=0, help="first steps, with the tower's auxiliary loss alone (cheap)")
    ap.add_argument("--freeze-until", type=int, default=0, help="no gradient into the tower before this step")
    ap.add_argument("--active", type=int, default=5, help="decoder layers in use before --grow-at (the others are the identity)")
    ap.add_argument("--grow-fade", type=float, default=0.0, help="and all layers once the learning rate has decayed to this share")
    ap.add_argument("--grow-at", type=int, default=1200, help="step from which all decoder layers are used")
    ap.add_argument("--compile", action="store_true")
    ap.add_argument("--workers", type=int, default=2, help="processes on a CPU, one thread each; a GPU uses one")
    return ap.parse_args()


def main():
    args = arguments()
    os.makedirs(args.out, exist_ok=True)
    if torch.cuda.is_available() or args.workers == 1:
        train(0, args, 1)
    else:
        torch.multiprocessing.spawn(train, (args, args.workers), nprocs=args.workers)


def train(rank, args, workers):
    if workers > 1:
        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo", f"file://{args.out}/meet.{os.getppid()}", rank=rank, world_size=workers)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tok = tokenizer_module.build()
    packer, renderer = Packer(tok), Renderer()
    model = DemoModel(Config(layer_map=read_layer_map(args.layer_map) if args.layer_map else ()), seed=args.seed)
    dtype = torch.float32 if args.f32 else torch.bfloat16
    heads = Heads(model.cfg.hidden_size)
    if args.compile:
        fused.enable()
    if args.wait_for:                                        # be ready to go on where a run that is still busy stops
        rehearse(model, packer, renderer)
        open(f"{args.out}/ready.{rank}", "w").close()
        while not os.path.exists(args.wait_for):
            time.sleep(0.5)
    step, last = 0, f"{args.out}/last.pt"
    if args.start:
        from safetensors.torch import load_file
        load_weights(model, load_file(f"{args.start}/model.safetensors"))
    model, heads = model.to(device), heads.to(device)
    opts, shared = optimizers(model, heads, args.lr, not args.adamw, rank, workers)
    if args.resume and os.path.exists(last):
        state = torch.load(last, map_location=device)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"], strict=False)
        step = state["step"]
        if workers == len(state["opts"]) and not args.fresh:
            for opt, s in zip(opts, state["opts"][rank]):
                opt.load_state_dict(s)
    words = [torch.tensor([packer.ids(" " + w)[0] for w in names], device=device) for names in (COLOUR_NAMES, SHAPES)]
    plan = parse_plan(args.plan)
    shares = np.array([float(v) for v in args.shares.split(",")]) if args.shares else None
    if shares is not None:
        shares /= shares.sum()
    begin, first_step = time.time(), step
    end = begin + 60 * args.minutes
    if args.until:
        now, (h, m) = time.gmtime(begin), map(int, args.until.split(":"))
        end = begin + (h - now.tm_hour) % 24 * 3600 + (m - now.tm_min) * 60 - now.tm_sec
    tally, losses, hits, since = {}, [], {}, time.time()
    params = list(model.parameters()) + list(heads.parameters())
    while not stop_together(time.time() >= end, workers):
        rng = np.random.default_rng((args.seed, step))       # the same choice of shapes in every worker
        mix = [m for s, m in plan if s <= step][-1]
        slices, grid = mix[int(rng.integers(len(mix)))]
        size = max(1, min(args.batch, args.batch * 8 * 16 // (slices * grid * grid)) // workers)
        turns = rng.random() < args.turns
        tower_only = step < args.tower_steps
        rng = np.random.default_rng((args.seed, step, rank))
        batch = make_batch(rng, packer, renderer, size, slices, grid, turns, max_objects=5 if tower_only else None, text=not tower_only, shares=shares, by_shape=args.by_shape)
        batch = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
        fade = torch.tensor(min(1.0, max(0.0, (end - time.time()) / (60 * args.decay_minutes))))
        if workers > 1:
            torch.distributed.broadcast(fade, 0)             # all workers must take the same step
        fade = fade.item()
        warm = min(1.0, (step - first_step + 1) / args.warmup)
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = args.lr * warm * fade * (args.muon_scale if isinstance(opt, torch.optim.Muon) else 1)
        patches = patchify(batch["frames"]).to(dtype)
        labels = batch["cells"].flatten(1, 3)
        weight = args.aux * min(1.0, 1.5 * fade)
        if tower_only:
            seen, taps, loss = model.see(patches), {}, torch.zeros(())
            weight = 1.0
        else:
            hidden, seen, taps = model(patches, batch["prefix"], batch["text"], batch["positions"], batch["groups"], TAPS,
                                       frozen=step < args.freeze_until, active=args.active if step < args.grow_at and fade > args.grow_fade else None, text_tap=NAMED_LAYERS)
            chosen = batch["target"] != IGNORE
            logits = model.logits(hidden[chosen]).float()
            want = batch["target"][chosen]
            # A description has ten times the tokens of a short answer: by tokens alone it would be nearly all of the loss.
            weights = torch.where(batch["kind"][chosen] == TYPES.index("describe"), 1.0, args.short_weight)
            loss = (F.cross_entropy(logits, want, reduction="none") * weights).sum() / weights.sum()
            score(logits.argmax(-1) == want, batch, chosen, tally.setdefault(f"{slices}x{grid}", np.zeros((len(TYPES), 2), int)))
        rows = {"tower": seen, **{k: v for k, v in taps.items() if k in TAPS}}
        aux = {where: heads.loss(where, rows[where], labels) if where in rows else torch.zeros(()) for where in TAP_CLASSES}
        total = loss + weight * sum(aux.values())
        aligned = torch.zeros(())
        if not tower_only:
            aligned = align_loss(seen, labels, model.model.embed_tokens.weight, words)
            named_loss, known = heads.named_loss(taps, batch["noun"])
            total = total + (args.align * aligned + args.named * named_loss) * min(1.0, 1.5 * fade)
            hits.setdefault("named", []).append(known)
        for where, hit in accuracy(heads, rows, labels).items():
            hits.setdefault(where, []).append(hit)
        for opt in opts:
            opt.zero_grad(set_to_none=True)
        total.backward()
        average_gradients(params, workers)
        norm = nn.utils.clip_grad_norm_(params, 1.0)
        for opt in opts:
            opt.step()
        share_updates(shared, rank, workers)
        losses.append([loss.item(), norm.item()] + [a.item() for a in aux.values()] + [aligned.item()])
        step += 1
        if step % 25 == 0 and rank == 0:
            mean = np.mean(losses, axis=0).round(4).tolist()
            line = {"step": step, "time": time.strftime("%H:%M:%S", time.gmtime()), "loss": mean[0], "norm": mean[1],
                    "aux": mean[2:], "lr": round(args.lr * warm * fade, 6), "s/step": round((time.time() - since) / 25, 2),
                    "cells": {k: np.nanmean(v, axis=0).round(3).tolist() for k, v in hits.items()},
                    "exact": {k: {TYPES[i]: round(float(v[i, 0] / v[i, 1]), 3) for i in range(len(TYPES)) if v[i, 1]}
                              for k, v in tally.items()}}
            with open(f"{args.out}/curve.jsonl", "a") as f:
                f.write(json.dumps(line) + "\n")
            tally, losses, hits, since = {}, [], {}, time.time()
        if step % 50 == 0:
            save(last, model, heads, opts, step, rank, workers)
    save(last, model, heads, opts, step, rank, workers)


if __name__ == "__main__":
    main()
