#!/usr/bin/env python3
"""Runs two builds of purekv on the same settings and compares what they answer, bit by bit.

    tools/compare_builds/compare.py OLD/bin/purekv NEW/bin/purekv [--quick] [--filter TEXT] [--jobs 2]

For a change that must not change results. Compared: standard output, --json (but for times, memory and paths), --kept,
--logits, and the bytes of .pkv files; a .pkv of the old build is also read by the new one. Settings: every policy that the new
build lists, allocators, budgets in shares, tokens and bytes, both --kv-when, chunks, prefill kinds, drop layers, saved
caches, several turns, --independent, f32 and bf16, on the demo model.
Exit status 0: all equal. Python's standard library only.
"""
import argparse
import concurrent.futures
import hashlib
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "models/demo"
VIDEO = DEMO / "eval/short-03.mp4"
LONGER = DEMO / "eval/medium-01.mp4"
QUESTION = "Describe the video."
# What may differ between two runs of one build.
MOVING = ("time", "peak_rss_bytes", "rss_bytes", "kernels")


def policy_names(binary):
    """The names that --kv-policy knows, from its own message about one that it does not."""
    run = subprocess.run([binary, "ask", "--kv-policy", "?"], capture_output=True, text=True)
    return run.stderr.split("one of ")[1].split(";")[0].strip().split(", ")


def settings(binary, quick):
    """Lists of flags of `ask`, beside model, video and prompts."""
    names = [name for name in policy_names(binary) if name != "full"]
    yield []
    yield ["--prefill", "st"]
    yield ["--prefill", "block-sparse"]
    yield ["-p", "What colour is it?", "-p", "Where?"]
    yield ["--temp", "0.8", "--seed", "7", "--top-p", "0.9"]
    for name in names:
        budgets = [["--kv-budget", "0.2"], ["--kv-tokens", "40"], ["--kv-bytes", "200K"]]
        for budget, when in itertools.product(budgets[:1] if quick else budgets, ["prompt", "media"]):
            yield ["--kv-policy", name, *budget, "--kv-when", when]
        yield ["--kv-policy", name, "--kv-budget", "0.1", "-p", "What colour is it?", "--kv-when", "media", "--independent"]
        yield ["--kv-policy", name, "--kv-tokens", "30", "--kv-chunk", "64"]
        yield ["--kv-policy", name, "--kv-budget", "0.3", "--kv-allocator", "pyramid"]
        yield ["--kv-policy", name, "--kv-budget", "0.3", "--kv-allocator", "ada"]
        yield ["--kv-policy", name, "--kv-budget", "0.3", "--kv-option", "n-attn=1"]
        yield ["--kv-policy", name, "--kv-budget", "0.3", "--kv-option", "decode_every=3"]
        yield ["--kv-policy", name, "--kv-budget", "0.3", "--drop-layers", "3:0.5,5:0.2"]
        yield ["--kv-policy", name, "--kv-budget", "0.3", "--prefill", "st"]
        yield ["--kv-policy", name, "--kv-budget", "0.3", "--prefill", "block-sparse"]
    for options in (["sources=4", "heads=mean", "below=wait"], ["window=32"], ["normalise=1"], ["sources=2,5", "vnorm=0"]):
        flags = list(itertools.chain.from_iterable(("--kv-option", option) for option in options))
        yield ["--kv-policy", "purekv", "--kv-budget", "0.2", *flags]
        yield ["--kv-policy", "purekv", "--kv-budget", "0.2", *flags, "--drop-layers", "6:0.3"]


def still(text):
    """A result object without what moves."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    for name in MOVING:
        value.pop(name, None)
    if value.get("kv", {}).get("when") == "media":  # as builds before texts called it
        value["kv"]["when"] = "context"
    if "cache" in value:
        value["cache"].pop("save_s", None)
        value["cache"].pop("file", None)
    return json.dumps(value, sort_keys=True)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def run(binary, arguments, folder):
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, cwd=folder, timeout=600)
    # The summary holds times; of a failure the line is compared.
    return done.returncode, done.stdout, done.stderr if done.returncode != 0 else ""


def outcome(binary, command, flags, folder):
    """Everything that one run leaves, in comparable form."""
    folder.mkdir()
    outputs = ["--json", "result.json", "--kept", "kept.json"]
    if command == "score":
        outputs += ["--logits", "logits.npy"]
    if command == "ingest":
        outputs += ["-o", "cache.pkv"]
    result = run(binary, [command, *flags, *outputs], folder)
    json_file = folder / "result.json"
    return {"status": result[0], "stdout": result[1] if command != "score" else still(result[1]), "stderr": result[2],
            "json": still(json_file.read_text()) if json_file.exists() else None,
            "kept": digest(folder / "kept.json"), "logits": digest(folder / "logits.npy"),
            "pkv": digest(folder / "cache.pkv")}


def cases(binary, quick):
    for flags in settings(binary, quick):
        turns = flags.count("-p")
        yield "ask", ["-m", DEMO, "--video", VIDEO, "-p", QUESTION, "-n", "24", *flags]
        if turns == 0 and not quick:
            for dtype in ("f32", "bf16"):
                yield "score", ["-m", DEMO, "--video", LONGER, "-p", QUESTION, "--answer", "First a purple square appears.",
                                "--dtype", dtype, *flags]
        if "--kv-when" in flags and "media" in flags and turns == 0:
            kept = [flag for i, flag in enumerate(flags) if flag != "--kv-when" and flags[i - 1] != "--kv-when"]
            yield "ingest", ["-m", DEMO, "--video", VIDEO, *kept]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=pathlib.Path)
    parser.add_argument("new", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true", help="one budget, no scores")
    parser.add_argument("--filter", default="", help="only cases whose command line holds this")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    old, new = arguments.old.resolve(), arguments.new.resolve()
    chosen = [case for case in cases(new, arguments.quick) if arguments.filter in " ".join(map(str, case[1]))]
    different = refused = 0
    with tempfile.TemporaryDirectory() as scratch:
        def compare(item):
            number, (command, flags) = item
            folder = pathlib.Path(scratch) / str(number)
            folder.mkdir()
            results = [outcome(binary, command, flags + ["-t", "1"], folder / side)
                       for side, binary in (("old", old), ("new", new))]
            read = None
            if command == "ingest" and results[0]["status"] == 0:  # the old build's file, read by both
                ask = ["-m", DEMO, "--cache", folder / "old/cache.pkv", "-p", QUESTION, "-n", "24", "-t", "1"]
                read = [outcome(binary, "ask", ask, folder / ("read-" + side)) for side, binary in (("old", old), ("new", new))]
            return command, flags, results, read

        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            for command, flags, results, read in pool.map(compare, enumerate(chosen)):
                refused += results[0]["status"] != 0
                for before, after in [results] + ([read] if read else []):
                    if before == after:
                        continue
                    different += 1
                    print("DIFFERENT:", command, " ".join(map(str, flags)))
                    for name in before:
                        if before[name] != after[name]:
                            print(f"  {name}: {str(before[name])[:300]!r}\n  {' ' * len(name)}  {str(after[name])[:300]!r}")
    print(f"{len(chosen)} cases ({refused} refused by both alike), {different} different")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
