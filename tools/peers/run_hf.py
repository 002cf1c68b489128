"""Hugging Face transformers, PyTorch on the CPU: prefill and greedy decode of random token ids. Prints one JSON line per run."""

import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM, DynamicCache


@torch.inference_mode()
def measure(model, ids, new_tokens):
    """Seconds to the first token and mean seconds of a later one."""
    cache = DynamicCache()
    start = time.perf_counter()
    token = model(ids[None], past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1].argmax()
    prefill = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(new_tokens - 1):
        token = model(token.view(1, 1), past_key_values=cache, use_cache=True).logits[0, -1].argmax()
    return prefill, (time.perf_counter() - start) / (new_tokens - 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="Hugging Face directory")
    parser.add_argument("--prompt-tokens", type=lambda s: [int(n) for n in s.split(",")], default=[2048])
    parser.add_argument("--new-tokens", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=2048, help="tokens of an untimed prompt first: the first of a process is slower")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16, attn_implementation=arguments.attention)
    vocabulary = model.config.vocab_size
    measure(model, torch.randint(2, vocabulary, (arguments.warm_up,)), 4)
    for tokens in arguments.prompt_tokens:
        for _ in range(arguments.repeats):
            prefill, step = measure(model, torch.randint(2, vocabulary, (tokens,)), arguments.new_tokens)
            print(json.dumps(dict(tokens=tokens, prefill_s=prefill, decode_s=step)), flush=True)


if __name__ == "__main__":
    main()
