"""A model's sizes, and the JSON files of a directory in the published Qwen2.5-VL form. Python's standard library only."""
import json
from dataclasses import dataclass


@dataclass
class Config:
    """Sizes of the demo model; the names follow config.json."""
    vocab_size: int = 520
    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    rope_theta: float = 10000.0
    mrope_section: tuple = (8, 12, 12)
    rms_norm_eps: float = 1e-6
    vision_depth: int = 4
    vision_hidden_size: int = 128
    vision_intermediate_size: int = 320
    vision_num_heads: int = 2
    vision_fullatt: tuple = (1, 3)
    window_size: int = 112
    tokens_per_second: int = 2
    # Of each layer (whose keys and values it attends to, how many tokens it sees; 0: all), as purekv_layer_map says it.
    layer_map: tuple = ()

    def kv_layer(self, layer):
        return self.layer_map[layer][0] if self.layer_map else layer

    def window(self, layer):
        return self.layer_map[layer][1] if self.layer_map else 0


def read_layer_map(path):
    """The list of a purekv_layer_map: [{"kv": 0, "window": 64}, ..] for every layer."""
    with open(path) as file:
        return tuple((one.get("kv", layer), one.get("window", 0)) for layer, one in enumerate(json.load(file)))


MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


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


def write_config(cfg, tok, directory, positions=32768):
    """config.json and its like; neither weights nor the tokenizer's files."""
    end = [tok.token_to_id("<|im_end|>"), tok.token_to_id("<|endoftext|>")]
    files = {"config.json": config_json(cfg, tok, positions), "preprocessor_config.json": preprocessor("image", 200704),
             "video_preprocessor_config.json": preprocessor("video", 50176),
             "generation_config.json": {"bos_token_id": end[1], "pad_token_id": end[1], "do_sample": False, "eos_token_id": end,
                                        "repetition_penalty": 1.0, "transformers_version": "4.57.1"}}
    for name, content in files.items():
        with open(f"{directory}/{name}", "w") as f:
            json.dump(content, f, indent=2)
            f.write("\n")
