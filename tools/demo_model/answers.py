"""Accuracy of the model's own answers on the held-out mp4 files, asked through `purekv ask`: full cache, greedy.

    python answers.py ../../build/release/bin/purekv ../../models/demo [--lengths short,medium,long] [--blind]

One process per video asks all its questions over the same media (--independent); two run at a time. A short answer is
right when it equals the reference; of a description the share of exact texts and of events (colour, shape, place, time,
motion, in order) that are right. --blind asks without the video: what the wording alone gives away.
"""
import argparse
import collections
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from questions import TYPES, events


def ask(program, model, folder, questions, blind):
    """The answers' texts, in order."""
    base = [program, "ask", "-m", model, "-t", "1", "-n", "160", "--json", "-"]
    prompts = [flag for q in questions for flag in ("-p", q["prompt"])]
    if blind:
        calls = [base + ["-p", q["prompt"]] for q in questions]
    else:
        video = os.path.join(folder, questions[0]["video"])
        calls = [base + ["--video", video, "--independent", "--kv-when", "media"] + prompts]
    texts = []
    for call in calls:
        out = subprocess.run(call, capture_output=True, text=True)
        if out.returncode != 0:
            sys.exit(out.stderr)
        texts += [answer["text"].strip() for answer in json.loads(out.stdout)["answers"]]
    return texts


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("program")
    ap.add_argument("model")
    ap.add_argument("--lengths", default="short,medium,long")
    ap.add_argument("--eval", help="folder of the videos and questions.jsonl (default: MODEL/eval)")
    ap.add_argument("--videos", type=int, default=10 ** 6, help="at most this many videos per length")
    ap.add_argument("--blind", action="store_true")
    args = ap.parse_args()
    folder = args.eval or os.path.join(args.model, "eval")
    by_video = collections.defaultdict(list)
    with open(os.path.join(folder, "questions.jsonl")) as f:
        for line in f:
            question = json.loads(line)
            by_video[question["video"]].append(question)
    print("| length | " + " | ".join(TYPES) + ", exact | describe, events |\n|---|" + "---|" * (len(TYPES) + 1))
    for length in args.lengths.split(","):
        jobs = [qs for qs in by_video.values() if qs[0]["length"] == length][:args.videos]
        right = collections.defaultdict(list)
        with ThreadPoolExecutor(2) as pool:
            for questions, texts in zip(jobs, pool.map(lambda qs: ask(args.program, args.model, folder, qs, args.blind), jobs)):
                for q, text in zip(questions, texts):
                    right[q["type"]].append(text == q["answer"])
                    if q["type"] == "describe":
                        got, want = events(text), events(q["answer"])
                        right["events"].append(sum(g == w for g, w in zip(got, want)) / len(want))
        cells = [f"{sum(right[kind]) / len(right[kind]):.3f}" for kind in TYPES + ("events",)]
        print(f"| {length} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
