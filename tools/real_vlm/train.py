"""Teaches SmolLM2 to see. Resumable, limited by the clock, deterministic from a seed up to the number of steps a minute has.

    python train.py --out DIR --minutes 240              from the language model and the demo model's tower
    python train.py --out DIR --minutes 240 --resume     from DIR/last.pt, with a fresh schedule
    python train.py --out DIR --start FILE --step N      from what pack.py wrote after N steps, without the optimiser's state

1. The first --warm-steps: the tower alone. Every merged token is fitted to the words for what its cell shows.
2. Tower, merger and the low-rank updates on questions and answers behind each video, in slots that see the video only. Every
   --text-every steps the same step also reads plain text and is held to the original decoder's distribution (KL).
3. Longer videos by the steps of --plan.

Every batch is new, so the accuracy of training batches is an accuracy on unseen videos; DIR/curve.jsonl gets it per question
type and length, with every answer token right given the ones before: what greedy decoding would write.
"""
import argparse
import json
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import language
import vlm
import weights
from plain import Texts
from batches import IGNORE, make_batch
from model import patchify
from questions import TYPES
from scenes import Renderer
from steps import average_gradients, parse_plan, score, stop_together

PLAN = "0:4x4,6x4*2;600:4x4,6x4*2,8x4,5x6,12x4;1200:4x4,6x4*2,8x4,6x6,12x4*2,16x4;2000:4x4,6x4,8x4,6x6,12x4*2,16x4,8x6,24x4"


def arguments():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--out", required=True)
    ap.add_argument("--gguf", default=str(language.GGUF))
    ap.add_argument("--tower", default=str(language.ROOT / "models" / "demo"), help="directory of the demo model")
    ap.add_argument("--minutes", type=float, default=240)
    ap.add_argument("--until", help="HH:MM (UTC) instead of --minutes")
    ap.add_argument("--decay-minutes", type=float, default=40, help="length of the final linear decay of the learning rate")
    ap.add_argument("--resume", action="store_true")
    ap.add_argument("--start", help="tower and factors to begin with: a file of pack.py")
    ap.add_argument("--step", type=int, default=0, help="with --start: steps that it has behind it")
    ap.add_argument("--fresh", action="store_true", help="resume weights only, not the optimiser state")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--lr", type=float, default=6e-4, help="of the low-rank updates")
    ap.add_argument("--tower-lr", type=float, default=3e-4)
    ap.add_argument("--warm-lr", type=float, default=1.5e-3, help="of the tower in the warm steps")
    ap.add_argument("--warmup", type=int, default=50)
    ap.add_argument("--warm-steps", type=int, default=300)
    ap.add_argument("--batch", type=int, default=16, help="videos of 6 slices per step, over all workers; longer ones are fewer")
    ap.add_argument("--pairs", type=int, default=8, help="short questions per video")
    ap.add_argument("--plan", default=PLAN, help="curriculum, as the demo model's")
    ap.add_argument("--anchor", type=float, default=0.2, help="weight of the words' classification of tokens after the warm steps")
    ap.add_argument("--short-weight", type=float, default=3.0, help="weight of a short answer's tokens, a description's being 1")
    ap.add_argument("--by-shape", type=float, default=0.3, help="share of place, time and motion questions that name the shape alone")
    ap.add_argument("--text-every", type=int, default=2)
    ap.add_argument("--text", default="4x160", help="TEXTSxTOKENS per worker and text step")
    ap.add_argument("--kl", type=float, default=1.0, help="weight of the plain-text loss")
    ap.add_argument("--overfit", action="store_true", help="the same batch in every step: a check that it can learn at all")
    ap.add_argument("--dtype", choices=("bfloat16", "float32"), help="of products and activations (default: what this processor multiplies fastest)")
    ap.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    args = ap.parse_args()
    if args.start and args.resume or args.step and not args.start:
        ap.error("--step belongs to --start, which begins where --resume would go on")
    return args


def save(path, model, opt, step):
    torch.save({"learned": {k: p.detach() for k, p in vlm.learned(model).items()}, "opt": opt.state_dict(), "step": step}, path + ".new")
    os.replace(path + ".new", path)


def text_loss(model, ids, rng, rows=320):
    """Mean KL of the decoder with updates from the original one, at `rows` random places of the texts."""
    pick = torch.from_numpy(rng.permutation(ids.numel())[:rows])
    vlm.LowRank.active = False
    with torch.no_grad():
        before = F.log_softmax(model.logits(vlm.read_text(model, ids).flatten(0, 1)[pick]).float(), -1)
    vlm.LowRank.active = True
    after = F.log_softmax(model.logits(vlm.read_text(model, ids).flatten(0, 1)[pick]).float(), -1)
    return F.kl_div(after, before, log_target=True, reduction="batchmean")


def end_time(args, begin):
    if not args.until:
        return begin + 60 * args.minutes
    now, (h, m) = time.gmtime(begin), map(int, args.until.split(":"))
    return begin + (h - now.tm_hour) % 24 * 3600 + (m - now.tm_min) * 60 - now.tm_sec


def train(rank, args, workers):
    if workers > 1:
        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo", f"file://{args.out}/meet.{os.getppid()}", rank=rank, world_size=workers)
    vlm.fused.enable()
    reader = language.read(args.gguf)
    packer, renderer = vlm.packer(reader), Renderer()
    dtype = getattr(torch, args.dtype) if args.dtype else vlm.fastest_dtype()
    model = vlm.build(reader, args.tower, dtype)
    words = vlm.Reader(packer, model.model.embed_tokens.weight)
    texts, (count, length) = Texts(packer), map(int, args.text.split("x"))
    learned = vlm.learned(model)
    groups = {"tower": [p for k, p in learned.items() if "low_rank" not in k], "decoder": [p for k, p in learned.items() if "low_rank" in k]}
    opt = torch.optim.AdamW([{"params": p, "name": name} for name, p in groups.items()], lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0)
    step, last = 0, f"{args.out}/last.pt"
    if args.resume and os.path.exists(last):
        state = torch.load(last, map_location="cpu")
        for name, value in state["learned"].items():
            learned[name].data.copy_(value)
        step = state["step"]
        if not args.fresh:
            opt.load_state_dict(state["opt"])
    elif args.start:
        for name, value in weights.read(args.start).items():
            learned[name].data.copy_(torch.tensor(value))
        step = args.step
    plan = parse_plan(args.plan)
    begin, first_step = time.time(), step
    end = end_time(args, begin)
    tally, losses, known, since, saved, videos = {}, {}, [], time.time(), time.time(), 0
    while not stop_together(time.time() >= end, workers):
        at = 0 if args.overfit else step
        rng = np.random.default_rng((args.seed, at))         # the same choice of shapes in every worker
        warming = step < args.warm_steps
        mix = [m for s, m in plan if s <= max(0, step - args.warm_steps)][-1]
        slices, grid = mix[0 if args.overfit else int(rng.integers(len(mix)))]
        if warming and not args.overfit:
            slices, grid = ((6, 4), (12, 4), (5, 6), (24, 4))[int(rng.integers(4))]
        size = max(1, round((2 if warming else 1) * args.batch * min(1.0, 400 / (300 + slices * grid * grid)) / workers))
        rng = np.random.default_rng((args.seed, at, rank))
        batch = make_batch(rng, packer, renderer, size, slices, grid, max_objects=5 if warming and slices >= 6 else None,
                           pairs=args.pairs, text=not warming, by_shape=args.by_shape, fit=True)
        fade = torch.tensor(min(1.0, max(0.0, (end - time.time()) / (60 * args.decay_minutes))))
        if workers > 1:
            torch.distributed.broadcast(fade, 0)             # all workers must take the same step
        fade = fade.item()
        since_start = step - (first_step if first_step > args.warm_steps or warming else args.warm_steps)
        rise = min(1.0, (since_start + 1) / args.warmup)
        for group in opt.param_groups:
            rate = args.lr if group["name"] == "decoder" else args.warm_lr if warming else args.tower_lr
            cool = 1.0 if not warming else min(1.0, 0.05 + 2 * (1 - (step + 1) / args.warm_steps))
            group["lr"] = rate * rise * fade * cool
        opt.zero_grad(set_to_none=True)
        patches = patchify(batch["frames"]).to(dtype)
        cells = batch["cells"].flatten(1, 3)
        parts = {}
        if warming:
            parts["far"], parts["words"], right = words.loss(model.see(patches), cells)
            total = parts["far"] + parts["words"]
        else:
            hidden, seen, _ = model(patches, batch["prefix"], batch["text"], batch["positions"], batch["groups"])
            chosen = batch["target"] != IGNORE
            logits, want = model.logits(hidden[chosen]).float(), batch["target"][chosen]
            each = torch.where(batch["kind"][chosen] == TYPES.index("describe"), 1.0, args.short_weight)
            parts["answers"] = (F.cross_entropy(logits, want, reduction="none") * each).sum() / each.sum()
            score(logits.detach().argmax(-1) == want, batch, chosen, tally.setdefault(f"{slices}x{grid}", np.zeros((len(TYPES), 2), int)))
            _, parts["words"], right = words.loss(seen, cells)
            total = parts["answers"] + args.anchor * fade * parts["words"]
        total.backward()
        if not warming and args.kl and step % args.text_every == 0:
            parts["kl"] = text_loss(model, torch.from_numpy(texts.draw(rng, count, length)), rng)
            (args.kl * parts["kl"]).backward()
        params = [p for p in learned.values() if p.grad is not None]
        average_gradients(params, workers)
        parts["norm"] = nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step += 1
        videos += size * workers
        known.append(list(right.values()))
        for name, value in parts.items():
            losses.setdefault(name, []).append(float(value.detach()))
        if step % 10 == 0 and rank == 0:
            line = {"step": step, "time": time.strftime("%H:%M:%S", time.gmtime()), "lr": round(args.lr * rise * fade, 6),
                    **{k: round(float(np.mean(v)), 4) for k, v in losses.items()}, "s/step": round((time.time() - since) / 10, 2),
                    "s/video": round((time.time() - since) / videos, 3),
                    "cells": dict(zip(right, np.nanmean(known, axis=0).round(3).tolist())),
                    "exact": {k: {TYPES[i]: [int(v[i, 0]), int(v[i, 1])] for i in range(len(TYPES)) if v[i, 1]} for k, v in tally.items()}}
            with open(f"{args.out}/curve.jsonl", "a") as f:
                f.write(json.dumps(line) + "\n")
            tally, losses, known, since, videos = {}, {}, [], time.time(), 0
        if rank == 0 and (time.time() - saved > 240 or step == args.warm_steps):
            save(last, model, opt, step)
            saved = time.time()
    if rank == 0:
        save(last, model, opt, step)


def main():
    args = arguments()
    os.makedirs(args.out, exist_ok=True)
    if args.workers == 1:
        train(0, args, 1)
    else:
        torch.multiprocessing.spawn(train, (args, args.workers), nprocs=args.workers)


if __name__ == "__main__":
    main()
