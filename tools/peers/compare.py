"""Runs purekv and its peers in turns on the same shapes and prints one table.

With --file the same GGUF file is read by all: purekv, llama.cpp and OpenVINO GenAI (which reads some kinds of them).

Samples are appended to a file, so that rounds can be run one at a time (in moments when nothing else runs) and joined by a last call with
--rounds 0, which measures nothing and prints the table of all samples.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
OPENVINO = {
    # CPU's default: paged attention, KV cache as the IR asks for it (f16)
    "openvino": [],
    "openvino kv-bf16": ["--kv", "bf16"],
    "openvino kv-u8": ["--kv", "u8"],
    "openvino batched-512": ["--kv", "bf16", "--scheduler", "--batched-tokens", "512"],
    "openvino batched-2048": ["--kv", "bf16", "--scheduler", "--batched-tokens", "2048"],
    "openvino sdpa kv-bf16": ["--backend", "SDPA", "--kv", "bf16"],
    "openvino sdpa kv-u8": ["--backend", "SDPA", "--kv", "u8"],
}
LLAMACPP = {
    "llama.cpp": [],
    "llama.cpp flash": ["--flash", "on"],
    "llama.cpp ubatch-2048": ["--flash", "on", "--ubatch", "2048"],
}
NAMES = ["purekv", *OPENVINO, "hf", *LLAMACPP]


def run(command):
    """What a command prints, and the most memory it had, in MB."""
    # no look-ups on the network, and no more threads than are measured
    environment = dict(os.environ, HF_HUB_OFFLINE="1")
    child = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, env=environment)
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"exit {child.returncode}: {' '.join(map(str, command))}")
    return out, usage.ru_maxrss / 1024


def purekv(arguments):
    """Bench ends a prefill before the logits of its last token; peers end with the first token. One whole decoded token is added for that,
    which is more than logits cost."""
    command = [arguments.purekv, "bench", "--threads", arguments.threads, "--prompt-tokens", arguments.prompt_tokens]
    command += ["-n", arguments.new_tokens, "--repeats", arguments.repeats, "--format", "json", *arguments.purekv_flags]
    if arguments.file:
        command += ["-m", arguments.file]
    else:
        command += ["--shape", "qwen2.5-vl-3b", "--layers", arguments.layers, "--no-vision"]
    out, peak = run(command)
    rows = json.loads(out)["rows"]
    for prefill, decode in zip(rows[::2], rows[1::2], strict=True):
        assert (prefill["stage"], decode["stage"]) == ("prefill", "decode")
        for which in ("seconds_min", "seconds_max")[: arguments.repeats]:
            step = decode[which] / decode["tokens"]
            yield dict(tokens=prefill["tokens"], prefill_s=prefill[which] + step, decode_s=step, peak_mb=peak)


def peer(arguments, python, script, model, options):
    command = [python, HERE / script, model, "--prompt-tokens", arguments.prompt_tokens, "--new-tokens", arguments.new_tokens]
    command += ["--repeats", arguments.repeats, "--threads", arguments.threads, *options]
    out, peak = run(command)
    for line in out.splitlines():
        if line.startswith("{"):
            yield dict(json.loads(line), peak_mb=peak)


def visit(name, arguments):
    if name == "purekv":
        return purekv(arguments)
    if name in OPENVINO:
        return peer(arguments, arguments.openvino_python, "run_openvino.py", arguments.file or arguments.models / arguments.openvino, OPENVINO[name])
    if name in LLAMACPP:
        return peer(arguments, sys.executable, "run_llamacpp.py", arguments.file or arguments.models / "gguf" / arguments.gguf, LLAMACPP[name])
    return peer(arguments, arguments.hf_python, "run_hf.py", arguments.models / "hf", [])


def median_and_range(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def table(samples):
    print("| engine | prompt | samples | prefill, tokens/s, median (min..max) | purekv's / its | decode, ms/token, median (min..max) | purekv's / its | peak memory, MB |")
    print("|---|---:|---:|---|---:|---|---:|---:|")
    lengths = sorted({sample["tokens"] for sample in samples})
    for tokens in lengths:
        speed, step, peak = {}, {}, {}
        for sample in samples:
            if sample["tokens"] == tokens:
                speed.setdefault(sample["engine"], []).append(tokens / sample["prefill_s"])
                step.setdefault(sample["engine"], []).append(sample["decode_s"] * 1e3)
                peak.setdefault(sample["engine"], []).append(sample.get("peak_mb", float("nan")))
        for engine in sorted(speed, key=NAMES.index):
            ratios = ["", ""]
            if engine != "purekv" and "purekv" in speed:
                ratios = [
                    f"{statistics.median(speed['purekv']) / statistics.median(speed[engine]):.2f}",
                    f"{statistics.median(step['purekv']) / statistics.median(step[engine]):.2f}",
                ]
            print(
                f"| {engine} | {tokens} | {len(speed[engine])} | {median_and_range(speed[engine], 0)} | {ratios[0]} "
                f"| {median_and_range(step[engine], 1)} | {ratios[1]} | {max(peak[engine]):.0f} |"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=pathlib.Path, nargs="?", help="directory written by make_model.py")
    parser.add_argument("--file", type=pathlib.Path, help="a GGUF file in place of it")
    parser.add_argument("--gguf", default="model.gguf", help="which of the files in the directory's gguf/ llama.cpp reads")
    parser.add_argument("--openvino", default="openvino", help="which of the directory's IRs OpenVINO reads: openvino-int8, openvino-int4")
    parser.add_argument("--purekv-flags", type=str.split, default=[], help="as in --purekv-flags='--weights int4'")
    parser.add_argument("--openvino-python", default=sys.executable, help="interpreter of another environment for OpenVINO")
    parser.add_argument("--purekv", default=HERE.parents[1] / "build/release/bin/purekv")
    parser.add_argument("--engines", default="purekv,openvino,openvino sdpa kv-bf16,hf", help=f"comma-separated, of: {', '.join(NAMES)}")
    parser.add_argument("--hf-python", default=sys.executable, help="interpreter of another environment for transformers")
    parser.add_argument("--rounds", type=int, default=2)
    # bench reports min, median and max: of two runs that is both of them
    parser.add_argument("--repeats", type=int, choices=[1, 2], default=2, help="runs of each length per round")
    parser.add_argument("--prompt-tokens", default="2048,8192,16384")
    parser.add_argument("--new-tokens", type=int, default=20)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=pathlib.Path, default=pathlib.Path("peers.jsonl"), help="appended to")
    arguments = parser.parse_args()

    engines = [name.strip() for name in arguments.engines.split(",")]
    for name in engines:
        if name not in NAMES:
            parser.error(f"--engines {name}: must be one of {', '.join(NAMES)}")
    if not arguments.models and not arguments.file:
        parser.error("a directory or --file is needed")
    if arguments.rounds == 0 and not arguments.samples.exists():
        parser.error(f"--samples {arguments.samples}: no such file, and --rounds 0 measures nothing")
    for _ in range(arguments.rounds):
        for name in engines:
            with arguments.samples.open("a") as file:
                for sample in visit(name, arguments):
                    print(json.dumps(dict(engine=name, **sample)), file=file, flush=True)
    table([json.loads(line) for line in arguments.samples.read_text().splitlines()])


if __name__ == "__main__":
    main()
