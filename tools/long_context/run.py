#!/usr/bin/env python3
"""Runs `purekv eval` over models, lengths, policies, budgets and moments, and writes docs/results-real.md from what comes out.

    tools/long_context/run.py                       # everything: benchmark, models, evaluation, table; many hours
    tools/long_context/run.py --quick               # two small models, 1k tokens, four texts: a first look
    tools/long_context/run.py --models qwen0.5b --lengths 3k --policies snapkv,random --budgets 0.2
    tools/long_context/run.py --dry-run             # what would run, and how long, roughly

The benchmark is made where it is missing (make.py); the models have to be there (tools/real_models/fetch.py). One `eval` answers a length's
short questions (needle, several, lookup, changed), one its summaries, one its code. Each has a directory of its own under --output, named
by its settings: stopped or killed, the same command goes on where it was, and more policies or budgets later run beside what is there.
A run that fails is named and the others go on; the exit status is then 1. Python's standard library only.
"""
import argparse
import collections
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import table

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent

# layers: of the decoder; sources: the layers from which purekv's own policy is tried, the best guess first (docs/purekv.md).
Model = collections.namedtuple("Model", "parameters layers sources")
MODELS = {
    "smollm2": Model(135e6, 30, (20, 16)),
    "qwen0.5b": Model(494e6, 24, (14, 10)),
    "qwen1.5b": Model(1.54e9, 28, (16, 12)),
    "gemma3": Model(268e6, 18, (11,)),
}
# Types of questions that share a run, and the most tokens of an answer.
GROUPS = {"short": (("needle", "several", "lookup", "changed"), 32), "summary": (("summary",), 96), "code": (("code",), 96)}
# Every policy as it comes; those behind them are purekv's with a source in the middle, the last queries and lower layers that wait.
POLICIES = ("random", "uniform", "streaming-llm", "knorm", "keydiff", "vnorm", "h2o", "tova", "snapkv", "expected-attention", "csp", "purekv", "kvzip")
# Seconds per token of an answer and billion parameters: a first guess, until runs have been timed.
FIRST_GUESS = 0.04

Job = collections.namedtuple("Job", "model group length policies budgets whens limit directory command results")


def job_policies(model, names):
    """The policies of a model: those named, or all, and purekv's variants for its depth."""
    if names:
        return names
    middle = [f"purekv:window=32:sources={layer}:heads=mean:below=wait" for layer in MODELS[model].sources]
    return list(POLICIES) + middle + [f"purekv:sources={MODELS[model].sources[0]}"]


def read_questions(path):
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def chosen_questions(questions, types, length, limit):
    """What eval takes of them with --types, --lengths and --limit: the first texts."""
    some = [one for one in questions if one["type"] in types and one["length"] == length]
    texts = list(dict.fromkeys(one["text_file"] for one in some))
    if limit is not None:
        texts = texts[:limit]
    return [one for one in some if one["text_file"] in texts]


def plan(arguments, questions):
    """All jobs, in the order in which they run: short contexts first, so that all models have results early."""
    jobs = []
    data = arguments.data / "questions.jsonl"
    marks = hashlib.sha256(data.read_bytes()).hexdigest()
    for length in arguments.lengths:
        for model in arguments.models:
            for group, (types, tokens) in GROUPS.items():
                present = [kind for kind in types if any(one["type"] == kind for one in questions)]
                some = chosen_questions(questions, present, length, arguments.limit)
                if not some:
                    continue
                policies = job_policies(model, arguments.policies)
                binding = [marks, present, policies, arguments.budgets, arguments.when, arguments.limit, tokens]
                name = hashlib.sha256(json.dumps(binding).encode()).hexdigest()[:12]
                directory = arguments.output / model / f"{length}-{group}-{name}"
                command = [str(arguments.program), "eval", "-m", str(arguments.model_dir / f"{model}.gguf"), "--data", str(data),
                           "--types", ",".join(present), "--lengths", length, "--policies", ",".join(policies),
                           "--budgets", ",".join(arguments.budgets), "--when", ",".join(arguments.when), "-n", str(tokens),
                           "--viewer-videos", "0", "-o", str(directory)]
                if arguments.limit is not None:
                    command += ["--limit", str(arguments.limit)]
                if arguments.threads is not None:
                    command += ["-t", str(arguments.threads)]
                results = len(some) * (1 + len(policies) * len(arguments.budgets) * len(arguments.when))
                jobs.append(Job(model, group, length, policies, arguments.budgets, arguments.when, arguments.limit, directory, command,
                                results))
    return jobs


def finished(job):
    return table.read_run(job.directory).get("complete") is True


def work(job):
    """How much a job is, in tokens of answers times billion parameters. The text is read once for all: it weighs little."""
    thousands = float(job.length.rstrip("k")) * (1 if job.length.endswith("k") else 0.001)
    return job.results * GROUPS[job.group][1] * (MODELS[job.model].parameters / 1e9) * (1 + thousands / 10)


def seconds_per_work(jobs):
    """What the finished jobs took; the first guess where none has been timed."""
    seconds = done = 0.0
    for job in jobs:
        runs = table.read_run(job.directory).get("runs", [])
        fresh = sum(one.get("results", 0) for one in runs)
        if fresh > 0:
            seconds += sum(one.get("seconds", 0) for one in runs)
            done += work(job) * min(1.0, fresh / job.results)
    return seconds / done if done > 0 else FIRST_GUESS


def hours(seconds):
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def remaining(jobs):
    rate = seconds_per_work(jobs)
    return sum(work(job) * rate for job in jobs if not finished(job))


def run(job):
    """True when it went through. Ctrl-C is passed on once: eval ends by itself and keeps what it has."""
    job.directory.mkdir(parents=True, exist_ok=True)
    with (job.directory / "stderr.txt").open("ab") as log:
        process = subprocess.Popen(job.command, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)
        try:
            status = process.wait()
        except BaseException:
            os.kill(process.pid, signal.SIGINT)
            process.wait()
            raise
    if status == 0:
        return True
    lines = (job.directory / "stderr.txt").read_text(errors="replace").strip().splitlines()
    print(f"  failed: {lines[-1] if lines else f'exit status {status}'}", flush=True)
    return False


def prepare(arguments):
    """Makes the benchmark where it is missing; says what else is missing in one line."""
    if not (arguments.data / "questions.jsonl").exists():
        print(f"making the benchmark in {arguments.data}", flush=True)
        subprocess.run([sys.executable, str(HERE / "make.py"), str(arguments.data)], check=True)
    if arguments.dry_run:
        return
    if not os.access(arguments.program, os.X_OK):
        raise FileNotFoundError(f"{arguments.program}: no program; build it (cmake --preset release && cmake --build --preset release)")
    for model in arguments.models:
        path = arguments.model_dir / f"{model}.gguf"
        if not path.exists():
            raise FileNotFoundError(f"{path}: not there; tools/real_models/fetch.py --only {model} fetches it")


def names_in(known):
    def parse(text):
        names = [name for name in text.split(",") if name]
        wrong = [name for name in names if name not in known]
        if wrong or not names:
            raise argparse.ArgumentTypeError(f"'{wrong[0] if wrong else text}' is none of {', '.join(known)}")
        return names
    return parse


def words(text):
    names = [name for name in text.split(",") if name]
    if not names:
        raise argparse.ArgumentTypeError("an empty list")
    return names


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "out/long-context", help="the benchmark (default out/long-context)")
    parser.add_argument("--model-dir", type=pathlib.Path, default=ROOT / "real-models", help="where the models lie (default real-models)")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=ROOT / "out/long-context-results", help="where results go")
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/bin/purekv")
    parser.add_argument("--models", type=names_in(MODELS), help="default: all four")
    parser.add_argument("--lengths", type=words, help="default: all of the benchmark")
    parser.add_argument("--policies", type=words,
                        help="default: all, and purekv's variants for the model's depth; lists in options with plus: purekv:sources=4+9")
    parser.add_argument("--budgets", type=words, help="default 0.2; 0.5,0.2,0.1 takes three times as long")
    parser.add_argument("--when", type=names_in(("prompt", "context")), help="default prompt,context")
    parser.add_argument("--limit", type=int, help="only the first N texts of each run")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--quick", action="store_true", help="smollm2 and qwen0.5b, 1k, four texts, where nothing else is said")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and the hours, and run nothing")
    parser.add_argument("--table", type=pathlib.Path, default=None, help="where the table goes (default docs/results-real.md; --quick: beside the results)")
    arguments = parser.parse_args(argv)
    quick = arguments.quick
    arguments.models = arguments.models or (["smollm2", "qwen0.5b"] if quick else list(MODELS))
    arguments.budgets = arguments.budgets or ["0.2"]
    arguments.when = arguments.when or ["prompt", "context"]
    arguments.limit = arguments.limit or (4 if quick else None)
    if quick and arguments.output == ROOT / "out/long-context-results":
        arguments.output = ROOT / "out/long-context-quick"
    arguments.table = arguments.table or (arguments.output / "results.md" if quick else ROOT / "docs/results-real.md")
    return arguments


def main(argv=None):
    arguments = parse(argv)
    try:
        prepare(arguments)
        questions = read_questions(arguments.data / "questions.jsonl")
        known = list(dict.fromkeys(one["length"] for one in questions))
        arguments.lengths = arguments.lengths or (known[:1] if arguments.quick else known)
        wrong = [length for length in arguments.lengths if length not in known]
        if wrong:
            raise ValueError(f"--lengths: '{wrong[0]}' is none of {', '.join(known)}")
        jobs = plan(arguments, questions)
        left = [job for job in jobs if not finished(job)]
        print(f"{len(jobs)} runs, {sum(job.results for job in jobs)} answers; {len(left)} runs left, about {hours(remaining(jobs))}", flush=True)
        if arguments.dry_run:
            for job in left:
                print(" ".join(job.command))
            return 0
        failed = 0
        for number, job in enumerate(left, 1):
            print(f"[{number}/{len(left)}] {job.model} {job.length} {job.group}: {job.results} answers", flush=True)
            start = time.monotonic()
            if run(job):
                print(f"  {hours(time.monotonic() - start)}; about {hours(remaining(jobs))} left", flush=True)
                table.write(arguments.output, arguments.table)
            else:
                failed += 1
        if not left:
            table.write(arguments.output, arguments.table)
        print(f"{arguments.table}: written" if failed < len(left) or not left else "nothing to write")
        return 1 if failed else 0
    except (OSError, ValueError, subprocess.CalledProcessError, table.Problem) as problem:
        print(f"run.py: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("run.py: stopped; the same command goes on where it was", file=sys.stderr)
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the evaluation under way is told in any case
    sys.exit(main())
