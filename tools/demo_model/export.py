"""Writes a training checkpoint as a Hugging Face directory in the published Qwen2.5-VL form.

    python export.py CHECKPOINT.pt [CHECKPOINT.pt ..] MODEL_DIR

Several checkpoints of one run are averaged weight by weight (model soups, arXiv 2203.05482).
config.json is flat, tensor names are visual.* and model.*, weights are bf16, the head is tied (no lm_head.weight).
"""
import json
import sys

import torch
from safetensors.torch import save_file

import tokenizer as tokenizer_module
from model import MEAN, STD, Config


def config_json(cfg, tok, positions=32768):
    """The published flat config.json with a model's numbers and token ids."""
    ids = {name: tok.token_to_id(f"<|{name}|>") for name in
           ("endoftext", "im_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")}
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "attention_dropout": 0.0, "bos_token_id": ids["endoftext"],
        "eos_token_id": ids["im_end"], "vision_start_token_id": ids["vision_start"], "vision_end_token_id": ids["vision_end"],
        "vision_token_id": ids["vision_pad"], "image_token_id": ids["image_pad"], "video_token_id": ids["video_pad"],
        "hidden_act": "silu", "hidden_size": cfg.hidden_size, "initializer_range": 0.02,
        "intermediate_size": cfg.intermediate_size, "max_position_embeddings": positions, "max_window_layers": cfg.num_hidden_layers,
        "model_type": "qwen2_5_vl", "num_attention_heads": cfg.num_attention_heads,
        "num_hidden_layers": cfg.num_hidden_layers, "num_key_value_heads": cfg.num_key_value_heads,
        "rms_norm_eps": cfg.rms_norm_eps, "rope_theta": cfg.rope_theta, "sliding_window": 32768, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "transformers_version": "4.57.1", "use_cache": True, "use_sliding_window": False,
        "vision_config": {
            "depth": cfg.vision_depth, "hidden_act": "silu", "hidden_size": cfg.vision_hidden_size,
            "intermediate_size": cfg.vision_intermediate_size, "num_heads": cfg.vision_num_heads, "in_chans": 3,
            "out_hidden_size": cfg.hidden_size, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14,
            "window_size": cfg.window_size, "fullatt_block_indexes": list(cfg.vision_fullatt),
            "tokens_per_second": cfg.tokens_per_second, "temporal_patch_size": 2},
        "rope_scaling": {"type": "mrope", "mrope_section": list(cfg.mrope_section)}, "vocab_size": cfg.vocab_size,
        **({"purekv_layer_map": [{"kv": kv, "window": window} for kv, window in cfg.layer_map]} if cfg.layer_map else {})}


def preprocessor(kind, most):
    """Pixel limits for small frames: 56 x 56 is the least; published defaults would enlarge every demo frame."""
    out = {"min_pixels": 3136, "max_pixels": most, "size": {"shortest_edge": 3136, "longest_edge": most}, "patch_size": 14,
           "temporal_patch_size": 2, "merge_size": 2, "image_mean": list(MEAN), "image_std": list(STD),
           "processor_class": "Qwen2_5_VLProcessor"}
    if kind == "image":
        return {**out, "image_processor_type": "Qwen2VLImageProcessor"}
    return {**out, "video_processor_type": "Qwen2VLVideoProcessor", "do_sample_frames": False, "min_frames": 4, "max_frames": 768}


def export(state, directory, layer_map=()):
    cfg, tok = Config(layer_map=layer_map), tokenizer_module.build()
    write(state, cfg, tok, directory)
    tokenizer_module.write_files(tok, directory)


def write(state, cfg, tok, directory, dtype=torch.bfloat16, positions=32768):
    """Everything but the tokenizer's files."""
    save_file({k: v.detach().to(dtype).contiguous() for k, v in state.items()}, f"{directory}/model.safetensors",
              metadata={"format": "pt"})
    end = [tok.token_to_id("<|im_end|>"), tok.token_to_id("<|endoftext|>")]
    files = {"config.json": config_json(cfg, tok, positions), "preprocessor_config.json": preprocessor("image", 200704),
             "video_preprocessor_config.json": preprocessor("video", 50176),
             "generation_config.json": {"bos_token_id": end[1], "pad_token_id": end[1], "do_sample": False, "eos_token_id": end,
                                        "repetition_penalty": 1.0, "transformers_version": "4.57.1"}}
    for name, content in files.items():
        with open(f"{directory}/{name}", "w") as f:
            json.dump(content, f, indent=2)
            f.write("\n")


if __name__ == "__main__":
    saved = [torch.load(path, map_location="cpu") for path in sys.argv[1:-1]]
    states = [one["model"] for one in saved]
    export({name: sum(state[name].float() for state in states) / len(states) for name in states[0]}, sys.argv[-1],
           saved[0].get("layer_map", ()))
