#!/usr/bin/env python3
"""The engine against Hugging Face transformers on the pretrained models, from the same expanded weights, in float32 (`--weights bf16`).

    tools/real_models/parity.py [--models real-models] [--only smollm2] [--purekv build/release/bin/purekv]

For each model: ids of the prompt, 64 greedy tokens, and the logits of the first 32 of them. Needs torch, transformers 4.57.1, gguf,
numpy and accelerate. Prints one line of docs/parity.md per prompt; exit status 1 where something differs.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TOKENS, POSITIONS = 64, 32
MODELS = ("smollm2", "qwen0.5b", "qwen1.5b", "gemma3")
PROMPTS = ("What is the capital of France?", "Write a Python function that returns the n-th Fibonacci number, with a docstring.",
           "Zähle bis fünf – auf Deutsch, bitte. 🙂")
CLOSE = 2e-3  # of the logits' standard deviation
NEAR = 1e-2   # two first choices nearer than this are a tie for float32 sums of another order


def purekv(program: str, *arguments: str) -> str:
    out = subprocess.run([program, *arguments], capture_output=True, text=True)
    if out.returncode != 0:
        sys.exit(f"{program}: {out.stderr.strip()}")
    return out.stdout


def compare(program: str, path: Path, prompt: str, model, tokenizer) -> tuple[bool, str]:
    import torch
    common = ("-m", str(path), "--dtype", "f32", "--weights", "bf16", "-p", prompt)  # expanded: the same numbers
    asked = json.loads(purekv(program, "ask", *common, "-n", str(TOKENS), "--json", "-"))
    ids, answer = asked["prompt"]["ids"], asked["answers"][0]["ids"]
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True) \
        if tokenizer.chat_template else (tokenizer.bos_token or "") + prompt
    same_ids = tokenizer(rendered, add_special_tokens=False)["input_ids"] == ids
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids + answer])).logits[0, len(ids) - 1:-1].float()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "logits.npy"
        scored = answer[:POSITIONS]
        purekv(program, "score", *common, "--answer-ids", ",".join(map(str, scored)), "--logits", str(file))
        ours = torch.from_numpy(np.load(file))
    theirs = logits[:len(scored)]
    off = float((ours - theirs).pow(2).mean().sqrt() / theirs.std())
    # The engine's own tokens were fed, so that one near-tie does not decide all that follows.
    first = logits.argmax(-1).tolist()
    differ = [i for i, (a, b) in enumerate(zip(first, answer)) if a != b]
    ties = [i for i in differ if float(logits[i].max() - logits[i][answer[i]]) < NEAR * float(logits[i].std())]
    good = same_ids and off < CLOSE and len(ties) == len(differ)
    return good, (f"| {path.stem} | {prompt[:40]} | {len(ids)}{'' if same_ids else ' (ids differ)'} | {off:.1e} | "
                  f"{len(answer) - len(differ)} of {len(answer)}{f', {len(ties)} near-ties' if ties else ''} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("real-models"))
    parser.add_argument("--only", choices=MODELS, action="append")
    parser.add_argument("--purekv", default="build/release/bin/purekv")
    args = parser.parse_args()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    failed = 0
    print("| model | prompt | prompt tokens | logits off, of their standard deviation | greedy tokens equal |\n|---|---|---:|---:|---:|")
    for name in args.only or MODELS:
        path = args.models / f"{name}.gguf"
        if not path.is_file():
            sys.exit(f"{path}: not there; tools/real_models/fetch.py brings it")
        model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        for prompt in PROMPTS:
            good, line = compare(args.purekv, path, prompt, model, tokenizer)
            failed += not good
            print(line + ("" if good else " DIFFERS"), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
