#!/usr/bin/env python3
"""The tables of a run of scripts/milebench.sh: scores by task and group, and how near the full cache's answers each policy stays.

    tools/milebench/table.py RUN [-o RUN/table.md]

RUN has data/<task>.jsonl (convert.py) and <task>/results.jsonl (`purekv eval`). Samples count that every policy has answered. Python's
standard library only.
"""
import argparse
import collections
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "long_context"))
import intervals  # noqa: E402
import scores  # noqa: E402
import tasks  # noqa: E402

Answer = collections.namedtuple("Answer", "score agreement kl share")
ORDER = ("full", "csp", "snapkv", "h2o", "look-m", "random", "uniform")


class Problem(Exception):
    """One line for people."""


def lines_of(path):
    """Whole lines; of a run that is at work, or was killed, the last may be cut."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise Problem(f"{path}:{number}: no JSON: {error}") from error


def read_task(run, task):
    """{policy's name: {sample: Answer}}; a policy is named without its options, which are the task's."""
    questions = {one["id"]: one for _, one in lines_of(run / "data" / f"{task}.jsonl")}
    found = collections.defaultdict(dict)
    path = run / task / "results.jsonl"
    for number, one in lines_of(path):
        try:
            kv, metrics = one["kv"], one["metrics"]
            value = scores.score(questions[one["id"]], one["answer"])
            found[one["policy"].split(":")[0]][one["id"]] = Answer(value, metrics.get("agreement"), metrics.get("kl"),
                                                                   kv["bytes_kept"] / kv["bytes_full"])
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise Problem(f"{path}:{number}: no result of these questions: {error!r}") from error
    return found


def read(run):
    """{task: {policy: {sample: Answer}}}, of the samples that all policies of the task have answered; and how many are missing."""
    read_tasks, missing = {}, 0
    for path in sorted((run / "data").glob("*.jsonl")):
        total = sum(1 for _ in lines_of(path))
        found = read_task(run, path.stem) if (run / path.stem / "results.jsonl").is_file() else {}
        common = set.intersection(*(set(answers) for answers in found.values())) if found else set()
        missing += total - len(common)
        if common:
            read_tasks[path.stem] = {policy: {one: answers[one] for one in sorted(common)} for policy, answers in found.items()}
    if not read_tasks:
        raise Problem(f"{run}: no sample has been answered under all policies")
    return read_tasks, missing


def cell(groups, digits=3):
    """The mean over groups (lists of values) of their means, with its interval; one value has none."""
    groups = [values for values in groups if values]
    if not groups:
        return "-"
    pairs = [list(enumerate(values)) for values in groups]
    middle, low, high = intervals.bootstrap_groups(pairs)
    shown = f"{middle:.{digits}f}"
    return shown if all(len(values) == 1 for values in groups) else f"{shown} [{low:.{digits}f}, {high:.{digits}f}]"


def row(cells):
    return "| " + " | ".join(cells) + " |\n"


def values(found, task, policy, name):
    answers = found[task].get(policy, {}).values()
    return [getattr(one, name) for one in answers if getattr(one, name) is not None]


def page(run):
    found, missing = read(run)
    there = {policy for answers in found.values() for policy in answers}
    policies = [policy for policy in ORDER if policy in there] + sorted(there - set(ORDER))
    known = [task for names in tasks.GROUPS.values() for task in names]
    names = sorted(found, key=lambda task: (known.index(task) if task in known else len(known), task))
    count = sum(len(next(iter(answers.values()))) for answers in found.values())
    text = f"{count} samples of {len(found)} tasks, each under {len(policies)} policies"
    text += f"; **{missing} samples are not there yet.**\n\n" if missing else ".\n\n"
    text += "Scores: accuracy, or ROUGE-L where a task is open-ended; means with 95 % intervals. A group's is the mean of its tasks'.\n\n"
    text += row(["task", "samples", *(f"`{policy}`" for policy in policies)]) + row(["---"] * (2 + len(policies)))
    for task in names:
        text += row([task, str(len(next(iter(found[task].values())))), *(cell([values(found, task, policy, "score")]) for policy in policies)])
    for group in [*tasks.GROUPS, "-"]:
        members = [task for task in names if tasks.group_of(task) == group]
        if members:
            title = f"{group}: {tasks.GROUP_NAMES[group]}" if group != "-" else "others"
            text += row([f"**{title}**", str(sum(len(next(iter(found[task].values()))) for task in members)),
                         *(cell([values(found, task, policy, "score") for task in members]) for policy in policies)])
    text += "\nAlong the full cache's own answers (teacher forcing): agreement of the preferred tokens, KL in nats a token; means over all tasks.\n\n"
    text += row(["policy", "bytes kept", "agreement", "KL"]) + row(["---"] * 4)
    for policy in policies:
        text += row([f"`{policy}`", *(cell([values(found, task, policy, name) for task in names], digits)
                                      for name, digits in (("share", 3), ("agreement", 3), ("kl", 4)))])
    return text


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("-o", "--output", type=pathlib.Path, help="default: printed")
    arguments = parser.parse_args(argv)
    try:
        text = page(arguments.run)
        if arguments.output:
            arguments.output.write_text(text, encoding="utf-8")
        else:
            sys.stdout.write(text)
    except (Problem, OSError, UnicodeError) as problem:
        print(f"table.py: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
