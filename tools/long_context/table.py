#!/usr/bin/env python3
"""Makes docs/results-real.md from the results that run.py left.

    tools/long_context/table.py RESULTS [-o docs/results-real.md]

RESULTS holds a folder per model, and in it a directory of `purekv eval` per run. What stands in the page before its first mark stays.
Python's standard library only.
"""
import argparse
import collections
import json
import pathlib
import sys

import intervals

RIGHT_OR_WRONG = ("needle", "several", "lookup", "changed")
# Policies that look at no query: what every policy that does has to beat.
SIMPLE = ("random", "uniform", "streaming-llm", "knorm", "keydiff", "vnorm")
BEGIN = "<!-- tables: begin, made by tools/long_context/run.py -->"
END = "<!-- tables: end -->"
INTRODUCTION = """# Results on pretrained models

What cache policies cost on long texts, in models that people use (tools/real_models), measured by `tools/long_context/run.py`
([how](../tools/long_context/README.md)).

"""

# One answer: right is 1 or 0 (None where a task has no right answer), kl and agreement compare with the full cache (None where it said nothing).
Answer = collections.namedtuple("Answer", "id task length text policy budget when right kl agreement")
Setting = collections.namedtuple("Setting", "policy budget when")


class Problem(Exception):
    """One line for people."""


def read_run(directory):
    """run.json of an evaluation; {} where there is none."""
    path = directory / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Problem(f"{path}: {error}") from error
    return run if isinstance(run, dict) else {}


def read_answers(path):
    answers = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                break  # a run that is still at work, or was killed
            try:
                one = json.loads(line)
                right = one["score"] if one["type"] in RIGHT_OR_WRONG else None
                # `media` is the older name of `context`.
                when = {"media": "context"}.get(one["when"], one["when"])
                answers.append(Answer(one["id"], one["type"], one["length"], one["video"], one["policy"], one["budget"], when, right,
                                      one["metrics"].get("kl"), one["metrics"].get("agreement")))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise Problem(f"{path}:{number}: no result of an evaluation: {error!r}") from error
    return answers


class ModelResults:
    """All answers of a model: `full` by question, and `by` setting a dictionary by question."""

    def __init__(self, name):
        self.name = name
        self.full = {}
        self.by = {}
        self.runs = []

    def add(self, run, answers):
        self.runs.append(run)
        for one in answers:
            if one.policy == "full":
                self.full.setdefault(one.id, one)
            else:
                self.by.setdefault(Setting(one.policy, one.budget, one.when), {}).setdefault(one.id, one)

    def moments(self):
        """(when, budget) in the order of the page: prompt first, large budgets first."""
        return sorted({(one.when, one.budget) for one in self.by}, key=lambda pair: (pair[0] != "prompt", -pair[1]))

    def policies(self, when, budget):
        return [one.policy for one in self.by if (one.when, one.budget) == (when, budget)]


def load(results):
    """The models' results by name. Raises Problem where there are none, or where they are of two benchmarks."""
    models, data = {}, {}
    for path in sorted(results.glob("*/*/results.jsonl")):
        run = read_run(path.parent)
        data.setdefault(str(run.get("settings", {}).get("data")), path.parent)
        answers = read_answers(path)
        if answers:
            models.setdefault(path.parent.parent.name, ModelResults(path.parent.parent.name)).add(run, answers)
    if not models:
        raise Problem(f"{results}: no results there")
    if len(data) > 1:
        first, second = list(data.values())[:2]
        raise Problem(f"{first} and {second} are of two different benchmarks; one table needs one")
    return models


def values(answers, of):
    """[(text, value)] of the answers that have one."""
    return [(one.text, of(one)) for one in answers if of(one) is not None]


def interval(pairs, digits=3):
    """"0.812 [0.75, 0.87]" of values by text; "" of none."""
    if not pairs:
        return ""
    mean, low, high = intervals.bootstrap(pairs)
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def counted(model, setting, tasks):
    """(right where full is right, full right, right where full is wrong, full wrong) over the questions that both answered."""
    counts = [0, 0, 0, 0]
    for identity, one in model.by[setting].items():
        full = model.full.get(identity)
        if full is None or one.task not in tasks:
            continue
        base = 0 if full.right == 1 else 2
        counts[base] += one.right == 1
        counts[base + 1] += 1
    return counts


def kept(model, setting, tasks, lengths=None):
    """[(text, 1 or 0)]: right again, of what the full cache answers right."""
    return [(one.text, one.right) for identity, one in model.by[setting].items()
            if one.task in tasks and identity in model.full and model.full[identity].right == 1 and (lengths is None or one.length in lengths)]


def order_of_lengths(model):
    def tokens(name):
        return int(name.rstrip("k")) * (1000 if name.endswith("k") else 1)
    return sorted({one.length for one in model.full.values()}, key=tokens)


def row(cells):
    return "| " + " | ".join(cells) + " |\n"


def header(cells):
    return row(cells) + "|" + "---|" + "---:|" * (len(cells) - 1) + "\n"


def full_table(model):
    lengths = order_of_lengths(model)
    text = "The full cache, right of asked:\n\n" + header(["context", *RIGHT_OR_WRONG])
    for length in lengths:
        cells = [length]
        for task in RIGHT_OR_WRONG:
            some = [one.right for one in model.full.values() if (one.task, one.length) == (task, length)]
            cells.append(f"{sum(1 for right in some if right == 1)} of {len(some)}" if some else "")
        text += row(cells)
    return text + "\n"


def setting_table(model, when, budget):
    lengths = order_of_lengths(model)
    by_length = lengths if len(lengths) > 1 else []
    text = header(["policy", *RIGHT_OR_WRONG, "all four [95 %]", *by_length, "full wrong", "KL short", "KL summary", "KL code",
                   "agreement short", "agreement summary", "agreement code"])
    for policy in model.policies(when, budget):
        setting = Setting(policy, budget, when)
        answers = list(model.by[setting].values())
        cells = [f"`{policy}`"]
        for task in RIGHT_OR_WRONG:
            right, of, _, _ = counted(model, setting, (task,))
            cells.append(f"{right} of {of}" if of else "")
        cells.append(interval(kept(model, setting, RIGHT_OR_WRONG), 2))
        for length in by_length:
            some = [value for _, value in kept(model, setting, RIGHT_OR_WRONG, (length,))]
            cells.append(f"{sum(some) / len(some):.2f}" if some else "")
        _, _, right, of = counted(model, setting, RIGHT_OR_WRONG)
        cells.append(f"{right} of {of}" if of else "")
        groups = (RIGHT_OR_WRONG, ("summary",), ("code",))
        cells += [interval(values([one for one in answers if one.task in tasks], lambda one: one.kl)) for tasks in groups]
        cells += [interval(values([one for one in answers if one.task in tasks], lambda one: one.agreement)) for tasks in groups]
        text += row(cells)
    return text + "\n"


def measures():
    """Name, task, value of an answer (larger is better), whether only questions count that the full cache answers right."""
    for task in RIGHT_OR_WRONG:
        yield task, task, lambda one: one.right, True
    for task in ("summary", "code"):
        yield f"KL {task}", task, lambda one: None if one.kl is None else -one.kl, False


def simple_wins(model, when, budget):
    """Lines: the measures in which a policy that looks at no query is better than all that do."""
    lines = []
    names = model.policies(when, budget)
    simple = [name for name in names if name.split(":")[0].split("+")[0] in SIMPLE]
    others = [name for name in names if name not in simple]
    for title, task, of, only_right in measures():
        scores = {}
        for policy in names:
            found = {identity: (one.text, of(one)) for identity, one in model.by[Setting(policy, budget, when)].items()
                     if one.task == task and of(one) is not None and
                     (not only_right or (identity in model.full and model.full[identity].right == 1))}
            if found:
                scores[policy] = found
        means = {policy: sum(value for _, value in found.values()) / len(found) for policy, found in scores.items()}
        ours, theirs = [name for name in simple if name in means], [name for name in others if name in means]
        if not ours or not theirs:
            continue
        best, rival = max(ours, key=means.get), max(theirs, key=means.get)
        if means[best] <= means[rival]:
            continue
        both = [(scores[best][one][0], scores[best][one][1] - scores[rival][one][1]) for one in scores[best] if one in scores[rival]]
        sign = -1 if title.startswith("KL") else 1
        lines.append(f"- {title}: `{best}` {sign * means[best]:.3f}, the best that looks at queries, `{rival}`, {sign * means[rival]:.3f}; "
                     f"better by {interval(both)}\n")
    return lines


def model_part(model):
    text = f"## {model.name}\n\n" + full_table(model)
    for when, budget in model.moments():
        said = "behind the question" if when == "prompt" else "before the question (a second turn)"
        text += f"### {model.name}: {budget:.0%} kept, compressed {said}\n\n" + setting_table(model, when, budget)
        wins = simple_wins(model, when, budget)
        text += ("A policy that looks at no query wins:\n\n" + "".join(wins) if wins else "No policy that looks at no query wins anything.\n") + "\n"
    return text


def origin(models):
    """What the figures stand on: counts, program and machine."""
    runs = [run for model in models.values() for run in model.runs]
    starts = [start for run in runs for start in run.get("runs", [])]
    answers = sum(len(model.full) + sum(map(len, model.by.values())) for model in models.values())
    machines = sorted({f"{start['machine']['cpu']}, {start['machine']['cores']} cores" for start in starts if "machine" in start})
    seconds = sum(start.get("seconds", 0) for start in starts)
    unfinished = sum(run.get("complete") is not True for run in runs)
    lines = [f"Made by `tools/long_context/run.py`: {answers} answers of {len(models)} models in {seconds / 3600:.1f} hours"
             + (f" on {'; '.join(machines)}" if machines else "") + "."]
    if unfinished:
        lines.append(f"**{unfinished} of {len(runs)} runs are not through:** their rows stand on fewer questions.")
    return "\n".join(lines) + "\n\n"


EXPLANATION = """Right answers are counted among the questions that the full cache answers right; "full wrong" is the share of the rest, where a policy can only be lucky.
KL is in nats per token and, as agreement, along the full cache's own answer ([evaluation.md](evaluation.md)); "short" are the answers of the four tasks before. Intervals: bootstrap of 1,000 draws of whole texts.
Policies that look at no query: """ + ", ".join(f"`{name}`" for name in SIMPLE) + ".\n\n"


def page(models):
    return origin(models) + EXPLANATION + "".join(model_part(model) for model in models.values())


def write(results, target):
    """Replaces what stands between the marks, or makes the page."""
    text = page(load(results))
    before, after = INTRODUCTION, ""
    if target.exists():
        old = target.read_text(encoding="utf-8")
        if BEGIN not in old or END not in old:
            raise Problem(f"{target}: without the marks between which the tables go; give another file")
        before, after = old.split(BEGIN)[0], old.split(END, 1)[1]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"{before}{BEGIN}\n\n{text}{END}{after or chr(10)}", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("-o", "--output", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2] / "docs/results-real.md")
    arguments = parser.parse_args()
    try:
        write(arguments.results, arguments.output)
    except (Problem, OSError) as problem:
        print(f"table.py: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
