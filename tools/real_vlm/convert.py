"""Writes the language model, a tower and trained factors as one published-form Qwen2.5-VL directory.

    python convert.py OUT_DIR                               SmolLM2 behind a tower that is not trained for it: text only
    python convert.py OUT_DIR --learned RUN/last.pt         with what training has found; several files are averaged
    python convert.py OUT_DIR --learned learned.safetensors --sha256 DIGEST
    python convert.py --pack RUN/last.pt learned.safetensors     tower and factors alone in bf16, small enough to keep

The low-rank factors are added to the weights, which are then written in bf16 (--dtype). Prints the SHA-256 of
model.safetensors; with --sha256 another one is an error.
"""
import argparse
import hashlib
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import language
import vlm
import export


def load(path):
    if str(path).endswith(".safetensors"):
        return {k: v.float() for k, v in load_file(path).items()}
    return torch.load(path, map_location="cpu")["learned"]


def average(paths):
    states = [load(p) for p in paths]
    return {name: sum(s[name].float() for s in states) / len(states) for name in states[0]}


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("out", type=Path)
    ap.add_argument("more", nargs="*", type=Path, help="with --pack: the file to write")
    ap.add_argument("--gguf", default=str(language.GGUF))
    ap.add_argument("--tower", default=str(language.ROOT / "models" / "demo"), help="where nothing is learned: a demo model's directory")
    ap.add_argument("--learned", nargs="+", default=[])
    ap.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    ap.add_argument("--sha256")
    ap.add_argument("--pack", action="store_true")
    args = ap.parse_args()
    if args.pack:
        *paths, target = [args.out, *args.more]
        save_file({k: v.to(torch.bfloat16).contiguous() for k, v in average(paths).items()}, target, metadata={"format": "pt"})
        print(f"{target}: {target.stat().st_size} bytes")
        return 0
    reader = language.read(args.gguf)
    if args.learned:
        trained = average(args.learned)
        tower = {k: v for k, v in trained.items() if k.startswith("visual.")}
    else:
        trained, tower = {}, vlm.untrained_tower(args.tower, language.config())
    args.out.mkdir(parents=True, exist_ok=True)
    state = {**language.with_zero_biases(vlm.merged(reader, trained)), **tower}
    export.write(state, language.config(), language.tokenizer(reader), str(args.out), getattr(torch, args.dtype), positions=8192)
    language.write_tokenizer(reader, str(args.out))
    found = hashlib.sha256((args.out / "model.safetensors").read_bytes()).hexdigest()
    print(f"{found}  {args.out / 'model.safetensors'}")
    if args.sha256 and found != args.sha256:
        print(f"convert.py: SHA-256 {found} where {args.sha256} is right", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
