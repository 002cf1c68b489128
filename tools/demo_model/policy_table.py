"""What cache policies cost in answers: a Markdown table over policies and budgets on the demo model's held-out videos.

    python policy_table.py ../../build/release/bin/purekv ../../models/demo --lengths short --videos 16 > table.md

Per policy, budget and time of compression: the share of short answers that are right word for word, the share of a
description's events that are right in order, and the agreement with the full cache (share of equal most likely tokens
under teacher forcing with the reference description). Everything goes through the command line, one process per
question, two at a time.
"""
import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from questions import events

POLICIES = ("random", "uniform", "streaming-llm", "h2o", "tova", "snapkv", "knorm", "keydiff", "vnorm", "expected-attention",
            "csp", "purekv")


def run(args):
    out = subprocess.run(args, capture_output=True, text=True)
    if out.returncode != 0:
        sys.exit(f"{' '.join(args)}\n{out.stderr}")
    return json.loads(out.stdout)


def judge(job):
    """Right short answers, events right and in all, agreeing tokens and tokens of one question under one setting."""
    program, model, root, question, flags = job
    base = ["-m", model, "--video", os.path.join(root, question["video"]), "-p", question["prompt"], "-t", "1", "--json", "-"] + flags
    answer = run([program, "ask", "-n", "128"] + base)["answers"][0]["text"].strip()
    if question["type"] != "describe":
        return (answer == question["answer"], 0, 0, 0, 0)
    got, want = events(answer), events(question["answer"])
    score = run([program, "score", "--answer", question["answer"], "--against", "full"] + base)["score"]
    count = len(score["top1"])
    return (0, sum(g == w for g, w in zip(got, want)), len(want), score["agreement"] * count, count)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("program")
    ap.add_argument("model")
    ap.add_argument("--lengths", default="short")
    ap.add_argument("--videos", type=int, default=16, help="of each length")
    ap.add_argument("--types", default="colour,shape,place,time,order,count,motion,describe")
    ap.add_argument("--policies", default=",".join(POLICIES))
    ap.add_argument("--budgets", default="0.5,0.2,0.1,0.05")
    ap.add_argument("--when", default="prompt,media")
    args = ap.parse_args()
    root = os.path.join(args.model, "eval")
    with open(os.path.join(root, "questions.jsonl")) as f:
        questions = [json.loads(line) for line in f]
    chosen = []
    for length in args.lengths.split(","):
        videos = sorted({q["video"] for q in questions if q["length"] == length})[:args.videos]
        chosen += [q for q in questions if q["video"] in videos and q["type"] in args.types.split(",")]
    settings = [("full", 1.0, "prompt")] + [(p, float(b), w) for w in args.when.split(",") for b in args.budgets.split(",")
                                            for p in args.policies.split(",")]
    print("| when | budget | policy | short answers | events | agreement |\n|---|---|---|---|---|---|")
    with ThreadPoolExecutor(2) as pool:
        for policy, budget, when in settings:
            flags = [] if policy == "full" else ["--kv-policy", policy, "--kv-budget", str(budget), "--kv-when", when]
            results = list(pool.map(judge, [(args.program, args.model, root, q, flags) for q in chosen]))
            short = [r[0] for r, q in zip(results, chosen) if q["type"] != "describe"]
            hit, of, agree, tokens = (sum(r[i] for r in results) for i in (1, 2, 3, 4))
            print(f"| {when} | {budget:g} | {policy} | {sum(short) / max(1, len(short)):.3f} | {hit / max(1, of):.3f} | "
                  f"{agree / max(1, tokens):.3f} |", flush=True)


if __name__ == "__main__":
    main()
