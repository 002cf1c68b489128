"""Text in equals SmolLM2 out: LlamaForCausalLM against Qwen2_5_VLForConditionalGeneration from an exported directory.

    python merge.py DIR --dtype float32; python check.py DIR              before training: the same logits and greedy tokens
    python check.py DIR --video                                             the training module and transformers about videos: the same
    python check.py DIR --kl                                                after: mean KL to SmolLM2 on held-out plain text

Both run in float32. The first is transformers' own reading of the GGUF file (its weights, not its tokenizer, which transformers
converts without the splitting of digits); the engine is compared with that in tools/real_models/parity.py.
"""
import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import language
import vlm
import check_hf
from model import DemoModel
from plain import Texts

PROMPTS = ("What is the capital of France?", "Write a Python function that returns the n-th Fibonacci number, with a docstring.",
           "Zähle bis fünf – auf Deutsch, bitte. 🙂", "Name three colours, and what 17 times 23 is.")
TOKENS = 48


@torch.no_grad()
def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("directory")
    ap.add_argument("--gguf", default=str(language.GGUF))
    ap.add_argument("--kl", action="store_true")
    ap.add_argument("--video", action="store_true")
    ap.add_argument("--texts", type=int, default=24, help="with --kl: stretches of 256 tokens")
    args = ap.parse_args()
    if args.video:
        model = DemoModel(language.config())
        model.load_state_dict({k: v.float() for k, v in load_file(f"{args.directory}/model.safetensors").items()})
        check_hf.compare(args.directory, model, vlm.packer(language.read(args.gguf)))
        return
    from transformers import AutoModelForCausalLM, AutoProcessor, Qwen2_5_VLForConditionalGeneration
    path = Path(args.gguf)
    before = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()
    after = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.directory, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(args.directory)
    reader = language.read(path)
    template = reader.fields["tokenizer.chat_template"].contents()
    if args.kl:
        ids = torch.from_numpy(Texts(vlm.packer(reader), held_out=True).draw(np.random.default_rng(0), args.texts, 256))
        kl = [F.kl_div(F.log_softmax(after(input_ids=row[None]).logits[0], -1), F.log_softmax(before(input_ids=row[None]).logits[0], -1),
                       log_target=True, reduction="none").sum(-1) for row in ids]
        print(f"mean KL to SmolLM2 over {ids.numel()} tokens of held-out plain text: {torch.cat(kl).mean():.4f} nats")
        return
    failed = 0
    print("| prompt | prompt tokens | logits differ by at most | greedy tokens equal |\n|---|---:|---:|---:|")
    for prompt in PROMPTS:
        chat = [{"role": "user", "content": prompt}]
        text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        same = text == processor.tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=True)
        same &= text == processor.apply_chat_template([{"role": "user", "content": [{"type": "text", "text": prompt}]}],
                                                      tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([language.tokenizer(reader).encode(text, add_special_tokens=False).ids])
        same &= processor(text=[text], return_tensors="pt")["input_ids"].tolist() == ids.tolist()
        out = [m.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0,
                          eos_token_id=2) for m in (before, after)]
        gap = (before(input_ids=out[0]).logits - after(input_ids=out[0]).logits).abs().max().item()
        n = out[0].shape[1] - ids.shape[1]
        equal = sum(int(a == b) for a, b in zip(out[0][0, -n:], out[1][0, ids.shape[1]:]))
        good = same and gap < 1e-3 and equal == n == out[1].shape[1] - ids.shape[1]
        failed += not good
        print(f"| {prompt[:40]} | {ids.shape[1]}{'' if same else ' (texts or ids differ)'} | {gap:.1e} | {equal} of {n} |"
              + ("" if good else " DIFFERS"), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
