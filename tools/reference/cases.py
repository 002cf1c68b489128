"""The six tiny models that see: config.json in the forms found in the wild, how the weights are stored, which prompts are run.

Together they cover: flat, nested and 5.x configs; published and in-memory tensor names; one file and shards; tied and
untied heads; bf16, f16 and f32 files; head dims 128, 64, 96, 80; 1, 2 and 4 KV heads; windowed and plain towers.

Two of them have a small rope_theta: with the published 1e6 the last section's angles are so small that using the wrong axis
for it changes the logits by 1e-4 or less, and a test would not see it.
"""
import copy

import qwen3_vl

MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]


def id_fields(ids: dict) -> dict:
    return {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
            "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
            "vision_token_id": ids["<|vision_pad|>"], "image_token_id": ids["<|image_pad|>"],
            "video_token_id": ids["<|video_pad|>"]}


def preprocessor(kind: str = "Qwen2VLImageProcessor", size_form: bool = False) -> dict:
    """preprocessor_config.json; `size_form` is how later saves write the two pixel counts."""
    limits = {"size": {"shortest_edge": 3136, "longest_edge": 12845056}} if size_form else {"min_pixels": 3136, "max_pixels": 12845056}
    return {**limits, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, "image_mean": MEAN, "image_std": STD,
            "image_processor_type": kind, "processor_class": "Qwen2_5_VLProcessor"}


def generation(ids: dict, **extra) -> dict:
    return {"bos_token_id": ids["<|endoftext|>"], "pad_token_id": ids["<|endoftext|>"], "do_sample": True,
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "repetition_penalty": 1.05, "temperature": 0.000001, **extra}


def flat(ids: dict) -> dict:
    """The published Qwen2.5-VL form: text fields at the root, only `in_chans`, rope type "mrope"."""
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "attention_dropout": 0.0, **id_fields(ids),
        "hidden_act": "silu", "hidden_size": 256, "initializer_range": 0.02, "intermediate_size": 512,
        "max_position_embeddings": 128000, "max_window_layers": 4, "model_type": "qwen2_5_vl", "num_attention_heads": 2,
        "num_hidden_layers": 4, "num_key_value_heads": 1, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "sliding_window": 32768, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.41.2",
        "use_cache": True, "use_sliding_window": False,
        "vision_config": {"depth": 4, "hidden_act": "silu", "hidden_size": 160, "intermediate_size": 220, "num_heads": 2,
                          "in_chans": 3, "out_hidden_size": 256, "patch_size": 14, "spatial_merge_size": 2,
                          "spatial_patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1, 3],
                          "tokens_per_second": 2, "temporal_patch_size": 2},
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "vocab_size": 768}


def nested(ids: dict) -> dict:
    """As transformers 4.52 .. 4.57 saves it: text_config, rope type "default"; the root's copies are stale on purpose."""
    text = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "hidden_act": "silu", "hidden_size": 256,
        "initializer_range": 0.02, "intermediate_size": 384, "layer_types": ["full_attention"] * 3,
        "max_position_embeddings": 128000, "max_window_layers": 70, "model_type": "qwen2_5_vl_text", "num_attention_heads": 4,
        "num_hidden_layers": 3, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_section": [8, 12, 12], "rope_type": "default", "type": "default"}, "rope_theta": 1000000.0,
        "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "float32", "use_cache": True,
        "use_sliding_window": False, "vision_token_id": ids["<|vision_pad|>"], "vocab_size": 704}
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "attention_dropout": 0.0, **id_fields(ids),
        "hidden_act": "silu", "hidden_size": 256, "initializer_range": 0.02, "intermediate_size": 384,
        "max_position_embeddings": 128000, "max_window_layers": 70, "model_type": "qwen2_5_vl", "num_attention_heads": 4,
        "num_hidden_layers": 28, "num_key_value_heads": 2, "rms_norm_eps": 1e-05,
        "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"}, "rope_theta": 10000.0,
        "sliding_window": 32768, "text_config": text, "tie_word_embeddings": True, "torch_dtype": "float32",
        "transformers_version": "4.52.4", "use_cache": True, "use_sliding_window": False,
        "vision_config": {"depth": 3, "fullatt_block_indexes": [1], "hidden_act": "silu", "hidden_size": 128, "in_channels": 3,
                          "in_chans": 3, "initializer_range": 0.02, "intermediate_size": 172, "model_type": "qwen2_5_vl",
                          "num_heads": 2, "out_hidden_size": 256, "patch_size": 14, "spatial_merge_size": 2,
                          "spatial_patch_size": 14, "temporal_patch_size": 2, "tokens_per_second": 2,
                          "torch_dtype": "float32", "window_size": 56},
        "vocab_size": 32064}


def qwen2_vl(ids: dict) -> dict:
    """The published Qwen2-VL form: vision `hidden_size` is the output width, `embed_dim` the tower's own."""
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"], "attention_dropout": 0.0, **id_fields(ids),
        "hidden_act": "silu", "hidden_size": 384, "initializer_range": 0.02, "intermediate_size": 640,
        "max_position_embeddings": 32768, "max_window_layers": 3, "model_type": "qwen2_vl", "num_attention_heads": 4,
        "num_hidden_layers": 3, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000.0,
        "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "float16", "transformers_version": "4.41.2",
        "use_cache": True, "use_sliding_window": False,
        "vision_config": {"depth": 3, "embed_dim": 160, "mlp_ratio": 4, "num_heads": 2, "in_chans": 3, "hidden_size": 384,
                          "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2},
        "rope_scaling": {"type": "mrope", "mrope_section": [12, 20, 16]}, "vocab_size": 736}


def version5(ids: dict) -> dict:
    """As transformers 5.x saves it: rope_parameters, `dtype`, nothing but ids at the root."""
    text = {
        "attention_dropout": 0.0, "bos_token_id": ids["<|endoftext|>"], "dtype": "bfloat16", "eos_token_id": ids["<|im_end|>"],
        "hidden_act": "silu", "hidden_size": 320, "initializer_range": 0.02, "intermediate_size": 448,
        "layer_types": ["full_attention"] * 3, "max_position_embeddings": 128000, "max_window_layers": 28,
        "model_type": "qwen2_5_vl_text", "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 4,
        "pad_token_id": None, "rms_norm_eps": 1e-05,
        "rope_parameters": {"mrope_section": [8, 16, 16], "rope_theta": 100.0, "rope_type": "default"},
        "sliding_window": None, "tie_word_embeddings": False, "use_cache": True, "use_sliding_window": False, "vocab_size": 672}
    media_ids = {k: v for k, v in id_fields(ids).items() if k in ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")}
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "dtype": "bfloat16", **media_ids, "model_type": "qwen2_5_vl",
        "text_config": text, "tie_word_embeddings": False, "transformers_version": "5.2.0",
        "vision_config": {"depth": 4, "dtype": "bfloat16", "fullatt_block_indexes": [2], "hidden_act": "silu", "hidden_size": 192,
                          "in_channels": 3, "in_chans": 3, "initializer_range": 0.02, "intermediate_size": 300,
                          "model_type": "qwen2_5_vl_vision", "num_heads": 4, "out_hidden_size": 320, "patch_size": 14,
                          "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2, "tokens_per_second": 3,
                          "window_size": 84}}


def for_transformers_4(config: dict) -> dict:
    """The same model in the form that transformers 4.57 reads: it knows rope_scaling only, and would fail on a 5.x file."""
    config = copy.deepcopy(config)
    text = config.get("text_config", {})
    if "rope_parameters" in text:
        rope = text.pop("rope_parameters")
        text["rope_theta"] = rope["rope_theta"]
        kind = {"rope_type": "default"} if config["model_type"] == "qwen3_vl" else {"type": "mrope"}
        text["rope_scaling"] = {**kind, "mrope_section": rope["mrope_section"]}
    if config["model_type"] == "qwen3_vl":  # the root's word counts, and transformers looks inside
        text["tie_word_embeddings"] = config["tie_word_embeddings"]
    return config


def prompt(name, text, media=(), system=None, then=None, answer=" A red circle moves.", **limits) -> dict:
    return {"name": name, "system": system, "media": list(media), "limits": limits, "text": text, "then": then, "answer": answer}


SMALL = {"min_pixels": 9408, "max_pixels": 18816}  # 12 .. 24 merged units per frame

CASES = [
    {"name": "qwen2_5_vl_flat",
     "about": "published flat config, one bf16 file, untied head, head dim 128 with one KV head, windowed tower 2 x 80; tokenizer.json with \"a b\" merges",
     "config": flat, "seed": 11, "dtype": "bf16", "layout": "published", "shards": 1,
     "tokenizer": "tokenizer", "preprocessor": preprocessor(), "video_preprocessor": None,
     "prompts": [
         prompt("text", "What is shown in this picture?", then="And what happens at the end?"),
         prompt("image", "Describe this image.", ["street.png"]),
         prompt("two_images", "What's the difference?\n\nAnswer in one sentence.", ["tower.png", "button.png"], system="You are a careful assistant."),
         prompt("video", "Describe the video in one sentence.", ["walk.npy"], then="Is it red?", **SMALL)]},
    {"name": "qwen2_5_vl_nested",
     "about": "nested config whose root copies are stale and must be ignored, in-memory tensor names in two f32 shards, tied head, head dim 64 with two KV heads; a video before an image; an answer that ends in <|endoftext|>",
     "config": nested, "seed": 12, "dtype": "f32", "layout": "language_model", "shards": 2,
     "tokenizer": "tokenizer_pairs", "preprocessor": preprocessor(size_form=True),
     "video_preprocessor": {"video_processor_type": "Qwen2VLVideoProcessor", "size": {"shortest_edge": 100352, "longest_edge": 602112},
                            "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, "image_mean": MEAN, "image_std": STD,
                            "min_frames": 4, "max_frames": 768, "do_sample_frames": False},
     "prompts": [
         prompt("text_system", "你好，世界。", system="You answer in short sentences."),
         prompt("image", "Describe this image.", ["tower.png"], then="How many people are there?"),
         prompt("video_image", "Is the picture from the video?", ["run.npy", "button.png"], then="Go on.", **SMALL)]},
    {"name": "qwen2_vl",
     "about": "Qwen2-VL: LayerNorm with bias, quick_gelu, no windows, positions without seconds; f16 file, tied head, head dim 96; vocab.json + merges.txt",
     "config": qwen2_vl, "seed": 13, "dtype": "f16", "layout": "published", "shards": 1,
     "tokenizer": "tokenizer_files", "preprocessor": {**preprocessor(), "processor_class": "Qwen2VLProcessor"}, "video_preprocessor": None,
     "generation": {"temperature": 0.01, "top_p": 0.001, "top_k": 1, "repetition_penalty": 1.0},
     "prompts": [
         prompt("image", "Describe this image.", ["street.png"]),
         prompt("video", "Was zeigt das Bild?", ["run.npy"], then="Größe?", **SMALL)]},
    {"name": "qwen2_5_vl_v5",
     "about": "transformers 5.x config (rope_parameters, dtype), in-memory names in one bf16 file, head dim 80 without grouping, theta 100, window that divides no grid, tokens_per_second 3, eps 1e-5; an answer that ends in <|im_end|>; default video limits",
     "config": version5, "seed": 39, "dtype": "bf16", "layout": "language_model", "shards": 1,
     "tokenizer": "tokenizer_pairs", "preprocessor": preprocessor("Qwen2VLImageProcessorFast", size_form=True), "video_preprocessor": None,
     "prompts": [
         prompt("image_video", "What is shown?", ["button.png", "walk.npy"], then="Why?", **SMALL),
         prompt("video_default_limits", "Describe the video.", ["run.npy"])]},
    {"name": "qwen3_vl",
     "about": "Qwen3-VL as published: q_proj wider than the hidden state, three deep sets for four layers, tower heads of 72 dims, a table of 7 x 7 positions; two images and a video of five frames",
     "config": qwen3_vl.published, "way": qwen3_vl, "seed": 51, "dtype": "bf16", "layout": "language_model", "shards": 1,
     "tokenizer": "tokenizer", "preprocessor": qwen3_vl.IMAGE_JSON, "video_preprocessor": qwen3_vl.VIDEO_JSON,
     "prompts": [
         prompt("text", "What is shown in this picture?", then="And what happens at the end?"),
         prompt("images_video", "Is the picture from the video?", ["street.png", "tower.png", "run.npy"], system="You answer in short sentences.",
                then="Go on.", min_pixels=6144, max_pixels=20480)]},
    {"name": "qwen3_vl_v5",
     "about": "Qwen3-VL with a transformers 5.x config (rope_parameters), tied by the root's word, one deep set, head dim 48, sections that interleave in full; the model's own limits",
     "config": qwen3_vl.version5, "way": qwen3_vl, "seed": 52, "dtype": "f32", "layout": "language_model", "shards": 2,
     "tokenizer": "tokenizer_pairs", "preprocessor": qwen3_vl.IMAGE_JSON, "video_preprocessor": qwen3_vl.VIDEO_JSON,
     "prompts": [
         prompt("video_image", "Describe the video.", ["walk.npy", "street.png"], then="Why?")]},
]
