"""Writes the language model, a tower and trained factors as one published-form Qwen2.5-VL directory. Needs no framework.

    python merge.py OUT_DIR                               SmolLM2 behind a tower that is not trained for it: text only
    python merge.py OUT_DIR --learned learned.safetensors     with what training has found (pack.py)
    python merge.py OUT_DIR --learned learned.safetensors --sha256 DIGEST

The low-rank factors are added to the weights, which are then written in bf16 (--dtype). Prints the SHA-256 of
model.safetensors; with --sha256 another one is an error.
"""
import argparse
import hashlib
import sys
from pathlib import Path

import language
import weights
from config import write_config


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("out", type=Path)
    ap.add_argument("--gguf", default=str(language.GGUF))
    ap.add_argument("--tower", default=str(language.ROOT / "models" / "demo"), help="where nothing is learned: a demo model's directory")
    ap.add_argument("--learned")
    ap.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    ap.add_argument("--sha256")
    args = ap.parse_args()
    reader, cfg = language.read(args.gguf), language.config()
    trained = weights.read(args.learned) if args.learned else {}
    tower = {k: v for k, v in trained.items() if k.startswith("visual.")} or weights.untrained_tower(args.tower, cfg)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "model.safetensors"
    weights.write(file, {**language.with_zero_biases(weights.merged(reader, trained)), **tower}, args.dtype == "bfloat16")
    write_config(cfg, language.tokenizer(reader), str(args.out), positions=8192)
    language.write_tokenizer(reader, str(args.out))
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    print(f"{found}  {file}")
    if args.sha256 and found != args.sha256:
        print(f"merge.py: SHA-256 {found} where {args.sha256} is right", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
