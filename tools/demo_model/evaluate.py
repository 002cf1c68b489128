"""Accuracy of the exported model on real mp4 files, through transformers, greedy, full cache.

    python evaluate.py MODEL_DIR [--questions FILE] [--videos N per length] [--blind] [--answers FILE] [--dtype bfloat16]

A short answer is right when it equals the reference; a description when its events (colour, shape, place, time, motion,
in order) do. --blind asks the same questions without the video: what the wording alone gives away.
"""
import argparse
import collections
import json
import os

import torch

import hf
from questions import TYPES, events


def right(question, text):
    if question["type"] == "describe":
        return events(text) == events(question["answer"])
    return text == question["answer"]


def table(score, lengths):
    lines = ["| length | videos' questions | " + " | ".join(TYPES) + " |", "|---|---|" + "---|" * len(TYPES)]
    for length in lengths:
        cells = []
        for kind in TYPES:
            good, of = score[length, kind]
            cells.append(f"{good / of:.3f}" if of else "-")
        lines.append(f"| {length} | {sum(score[length, k][1] for k in TYPES)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("model")
    ap.add_argument("--questions", help="default MODEL/eval/questions.jsonl")
    ap.add_argument("--videos", type=int, default=10 ** 6, help="at most this many videos per length")
    ap.add_argument("--lengths", default="short,medium,long")
    ap.add_argument("--blind", action="store_true")
    ap.add_argument("--dtype", default="float32")
    ap.add_argument("--answers", help="write every answer to this JSONL file")
    args = ap.parse_args()
    path = args.questions or os.path.join(args.model, "eval", "questions.jsonl")
    model, processor = hf.load(args.model, getattr(torch, args.dtype))
    hf.cache_tower(model)
    by_video = collections.OrderedDict()
    with open(path) as f:
        for q in map(json.loads, f):
            by_video.setdefault((q["length"], q["video"]), []).append(q)
    lengths = [x for x in args.lengths.split(",") if any(k[0] == x for k in by_video)]
    score, used = collections.defaultdict(lambda: [0, 0]), collections.Counter()
    out = open(args.answers, "w") if args.answers else None
    for (length, name), asked in by_video.items():
        if length not in lengths or used[length] >= args.videos:
            continue
        used[length] += 1
        video = None if args.blind else hf.read_video(os.path.join(os.path.dirname(path), name))
        for q in asked:
            text = hf.answer(model, processor, q["prompt"], video)
            good = right(q, text)
            score[length, q["type"]][0] += good
            score[length, q["type"]][1] += 1
            if out:
                out.write(json.dumps({"id": q["id"], "right": bool(good), "text": text, "answer": q["answer"]}) + "\n")
                out.flush()
    print(table(score, lengths))


if __name__ == "__main__":
    main()
