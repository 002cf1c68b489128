#!/usr/bin/env python3
"""What dropping tokens from the prefill costs on a real model, against the time it saves: one frontier per model.

    tools/long_context/frontier.py --models qwen0.5b            # an hour; four texts of 3k tokens
    tools/long_context/frontier.py --models qwen1.5b --drops 11:0.2,9:0.5+13:0.1 --limit 8
    tools/long_context/frontier.py --time-only --tokens 16384   # the seconds alone, on a quiet machine

Nothing else is thrown away (budget 1), so that the loss is dropping's alone. Every list of drop layers is tried with purekv's choice (the heads
below that copy), with one layer's (the layer below the first drop layer as the only source: the two-pass form), with SnapKV's and FastV's last
queries there, and at random; FastV as its paper has it (last token, layer 2) beside them. Seconds: `purekv bench` on random tokens, by list and
with purekv's choice, the dense full prefill in the same run. Results stay under --output: stopped, the same command goes on where it was.
Python's standard library only.
"""
import argparse
import hashlib
import json
import pathlib
import subprocess
import sys

import run
import table

# Where to drop when nothing is said, by depth: (share of the layers, share of the tokens) one or two times.
DROPS = (((0.5, 0.2),), ((0.33, 0.2),), ((0.29, 0.5), (0.46, 0.2)))


def default_drops(layers):
    return ["+".join(f"{round(depth * layers)}:{share:g}" for depth, share in drops) for drops in DROPS]


def methods(drops):
    """(name for the page, policy for eval) of one list of drop layers."""
    spelled = drops.replace(":", "@")
    first = int(drops.split(":")[0])
    return [
        ("purekv: heads below that copy", f"purekv:drop-layers={spelled}"),
        ("one layer's last 32 queries (two-pass form)", f"purekv:window=32:sources={first - 1}:heads=mean:below=wait:drop-layers={spelled}"),
        ("SnapKV's at the layer below", f"snapkv:drop-layers={spelled}"),
        ("the last token at the layer below", f"snapkv:window=1:pool=none:drop-layers={spelled}"),
        ("random", f"random:drop-layers={spelled}"),
    ]


def fastv(share):
    return ("FastV: the last token, layer 2", f"snapkv:window=1:pool=none:drop-layers=2@{share:g}")


def evaluate(arguments, model, policies, group):
    types, tokens = run.GROUPS[group]
    binding = [policies, arguments.limit, arguments.when]
    name = hashlib.sha256(json.dumps(binding).encode()).hexdigest()[:12]
    directory = arguments.output / model / f"{arguments.length}-{group}-{name}"
    directory.mkdir(parents=True, exist_ok=True)
    command = [str(arguments.program), "eval", "-m", str(arguments.model_dir / f"{model}.gguf"), "--data", str(arguments.data / "questions.jsonl"),
               "--types", ",".join(types), "--lengths", arguments.length, "--policies", ",".join(policies), "--budgets", "1", "--when", arguments.when,
               "--limit", str(arguments.limit), "-n", str(tokens), "--viewer-videos", "0", "-o", str(directory)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    results = table.ModelResults(model)
    results.add(table.read_run(directory), table.read_answers(directory / "results.jsonl"))
    return results


def seconds(arguments, model, drops):
    """(full, dropped) seconds of a prefill; the medians of --repeats."""
    command = [str(arguments.program), "bench", "-m", str(arguments.model_dir / f"{model}.gguf"), "--prompt-tokens", str(arguments.tokens), "-n", "0",
               "--repeats", str(arguments.repeats), "--kv-policy", "purekv", "--kv-budget", "1", "--drop-layers", drops.replace("+", ","),
               "--format", "json"]
    rows = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)["rows"]
    times = {row["policy"]: row["seconds_median"] for row in rows if row["stage"] == "prefill"}
    return times["full"], times["purekv"]


def mean_kl(results, policy, when, tasks):
    values = [one.kl for one in results.by.get(table.Setting(policy, 1.0, when), {}).values() if one.task in tasks and one.kl is not None]
    return f"{sum(values) / len(values):.3f}" if values else ""


def frontier(arguments, model):
    lists = arguments.drops or default_drops(run.MODELS[model].layers)
    rows = [(drops, name, policy) for drops in lists for name, policy in methods(drops)]
    rows += [(f"2:{share:g}", *fastv(share)) for share in (0.5, 0.2)]
    if arguments.methods:
        rows = [row for row in rows if any(row[1].startswith(name) for name in arguments.methods)]
    policies = list(dict.fromkeys(policy for _, _, policy in rows))
    lines = [f"### {model}", "", f"| drop layers | chosen by | right | KL short | KL summary | prefill of {arguments.tokens}, times faster |",
             "|---|---|---:|---:|---:|---:|"]
    short = summary = None
    if not arguments.time_only:
        short = evaluate(arguments, model, policies, "short")
        summary = evaluate(arguments, model, policies, "summary")
    ratios = {}
    for drops, name, policy in rows:
        if drops not in ratios and arguments.tokens > 0 and policy.startswith("purekv:drop-layers"):
            full, dropped = seconds(arguments, model, drops)
            ratios[drops] = f"{full / dropped:.2f} ({full:.1f} to {dropped:.1f} s)"
            print(f"{model} {drops}: {ratios[drops]}", file=sys.stderr, flush=True)
        right = kl_short = kl_summary = ""
        if short is not None:
            got, asked, _, _ = table.counted(short, table.Setting(policy, 1.0, arguments.when), table.RIGHT_OR_WRONG)
            right = f"{got} of {asked}"
            kl_short = mean_kl(short, policy, arguments.when, table.RIGHT_OR_WRONG)
            kl_summary = mean_kl(summary, policy, arguments.when, ("summary",))
        lines.append(f"| {drops} | {name} | {right} | {kl_short} | {kl_summary} | {ratios.get(drops, '')} |")
    return lines + [""]


def parse(argv):
    root = run.ROOT
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, default=root / "out/long-context", help="the benchmark (default out/long-context)")
    parser.add_argument("--model-dir", type=pathlib.Path, default=root / "real-models", help="where the models lie (default real-models)")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=root / "out/frontier", help="where results go (default out/frontier)")
    parser.add_argument("--program", type=pathlib.Path, default=root / "build/release/bin/purekv")
    parser.add_argument("--models", type=run.names_in(run.MODELS), default=["qwen0.5b", "qwen1.5b"])
    parser.add_argument("--drops", type=run.words, help="lists of drop layers, LAYER:SHARE joined by plus; default: by depth")
    parser.add_argument("--methods", type=run.words, help="only those whose name on the page begins so")
    parser.add_argument("--length", default="3k")
    parser.add_argument("--when", choices=("prompt", "context"), default="prompt")
    parser.add_argument("--limit", type=int, default=4, help="texts (default 4)")
    parser.add_argument("--tokens", type=int, default=16384, help="of the prefill that is timed; 0: none")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--time-only", action="store_true")
    return parser.parse_args(argv)


def main(argv=None):
    arguments = parse(argv)
    try:
        lines = []
        for model in arguments.models:
            lines += frontier(arguments, model)
        print("\n".join(lines))
        return 0
    except (OSError, ValueError, subprocess.CalledProcessError, table.Problem) as problem:
        print(f"frontier.py: {problem}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
