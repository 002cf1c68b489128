"""Writes a training checkpoint as a Hugging Face directory in the published Qwen2.5-VL form.

    python export.py CHECKPOINT.pt [CHECKPOINT.pt ..] MODEL_DIR

Several checkpoints of one run are averaged weight by weight (model soups, arXiv 2203.05482).
config.json is flat, tensor names are visual.* and model.*, weights are bf16, the head is tied (no lm_head.weight).
"""
import sys

import torch
from safetensors.torch import save_file

import tokenizer as tokenizer_module
from config import Config, write_config


def export(state, directory, layer_map=()):
    tok = tokenizer_module.build()
    save_file({k: v.detach().to(torch.bfloat16).contiguous() for k, v in state.items()}, f"{directory}/model.safetensors",
              metadata={"format": "pt"})
    write_config(Config(layer_map=layer_map), tok, directory)
    tokenizer_module.write_files(tok, directory)


if __name__ == "__main__":
    saved = [torch.load(path, map_location="cpu") for path in sys.argv[1:-1]]
    states = [one["model"] for one in saved]
    export({name: sum(state[name].float() for state in states) / len(states) for name in states[0]}, sys.argv[-1],
           saved[0].get("layer_map", ()))
