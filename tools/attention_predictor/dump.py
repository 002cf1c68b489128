#!/usr/bin/env python3
"""Runs purekv-dump-rows over a file of questions in `purekv eval`'s format, half of its videos or texts for training, the others held out."""
import argparse
import json
import pathlib
import subprocess
import sys


def chosen(questions: list[dict], half: str, most: int, lengths: list[str]) -> list[dict]:
    """Whole videos or texts go to one half, in turns. One question of each in turns, so that few questions see many of them."""
    by_source: dict[str, list[dict]] = {}
    for question in questions:
        if lengths and question.get("length") not in lengths:
            continue
        by_source.setdefault(question.get("video") or question["text_file"], []).append(question)
    sources = [by_source[name] for name in sorted(by_source)][0 if half == "train" else 1::2]
    order = [source[(i + turn) % len(source)] for turn in range(max(map(len, sources), default=0)) for i, source in enumerate(sources) if turn < len(source)]
    return order[:most]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", default="build/release/bin/purekv-dump-rows")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--questions", type=pathlib.Path, required=True, help="questions.jsonl; its videos and texts lie beside it")
    parser.add_argument("--half", choices=["train", "held-out"], required=True)
    parser.add_argument("--most", type=int, default=24, help="prompts")
    parser.add_argument("--lengths", nargs="*", default=[], help="of the questions' \"length\"; all")
    parser.add_argument("--prompt", help="asked in place of each question's own")
    parser.add_argument("-n", type=int, default=64, help="tokens of the answer, at most")
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--page", type=int, default=16)
    parser.add_argument("-o", "--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    questions = [json.loads(line) for line in options.questions.read_text(encoding="utf-8").splitlines() if line.strip()]
    for question in chosen(questions, options.half, options.most, options.lengths):
        out = options.out / question["id"]
        if (out / "rows.json").exists():
            continue
        command = [options.program, "-m", options.model, "-p", options.prompt or question["prompt"], "-n", str(options.n), "--rows", str(options.rows),
                   "--page", str(options.page), "-o", str(out)]
        if "video" in question:
            command += ["--video", str(options.questions.parent / question["video"])]
        else:
            command += ["--context-file", str(options.questions.parent / question["text_file"])]
        if (status := subprocess.run(command, check=False).returncode) != 0:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
