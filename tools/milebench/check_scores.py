#!/usr/bin/env python3
"""Judges answers that others have published with their scores, and compares: whether figures of table.py can stand beside theirs.

    tools/milebench/check_scores.py OUTPUTS    # <method>/<task>/pred.json and eval.json, as MileBench's code writes them

The CSP authors' repository has such a folder, `outputs`. Prints a line for each list of answers whose mean differs by more than 1e-6, then how
many there are. Python's standard library only.
"""
import argparse
import json
import pathlib
import sys

import scores
import tasks


class Problem(Exception):
    """One line for people."""


def read(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Problem(f"{path}: cannot be read: {error}") from error


def judged(folder):
    """(kind, their mean, ours, answers whose judgement differs: None where they publish the mean alone) of a list of answers."""
    kind = tasks.kind_of(folder.name, "open-ended")
    choices = folder / "pred_with_extracted.json"
    if choices.exists():
        kind = "choice"
    evaluation = read(folder / "eval.json")
    answers = read(choices if kind == "choice" else folder / "pred.json")
    try:
        theirs = evaluation["Rouge-L f" if kind == "rouge-l" else "Accuracy"]
        values = [scores.score({"judged": kind, "answer": one["gt_response"], "options": one.get("choice_list")}, one["pred_response"]) for one in answers]
        differ = [one["pred_response"] for one, value in zip(answers, values) if value != one["result"]] if kind == "choice" else None
    except (KeyError, TypeError, ValueError) as error:
        raise Problem(f"{folder}: no answers as MileBench's code writes them: {error!r}") from error
    if not values:
        raise Problem(f"{folder}: no answers")
    return kind, theirs, sum(values) / len(values), differ


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("outputs", type=pathlib.Path)
    arguments = parser.parse_args(argv)
    lists = equal = 0
    try:
        for path in sorted(arguments.outputs.glob("*/*/eval.json")):
            kind, theirs, ours, differ = judged(path.parent)
            lists += 1
            if abs(theirs - ours) <= 1e-6 and not differ:
                equal += 1
                continue
            empty = sum(not said for said in differ or ())
            print(f"{path.parent.parent.name} {path.parent.name}: {theirs:.4f} there, {ours:.4f} here"
                  + (f"; {len(differ)} answers are judged otherwise, {empty} of them empty" if differ else ""))
        if lists == 0:
            raise Problem(f"{arguments.outputs}: no <method>/<task>/eval.json")
    except Problem as problem:
        print(f"check_scores.py: {problem}", file=sys.stderr)
        return 1
    print(f"{equal} of {lists} lists of answers are judged alike")
    return 0


if __name__ == "__main__":
    sys.exit(main())
