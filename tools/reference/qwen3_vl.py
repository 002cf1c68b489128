"""What differs for Qwen3-VL: sizes by the volume of a video, patches of 16, time as text, a block of positions per slice, deep rows.

Pictures are resized by Pillow and frames as qwen-vl-utils does it, both to transformers' sizes: what is compared is sizes and patches,
and the resamplers have goldens of their own.
"""
import numpy as np
import torch
from PIL import Image
from qwen_vl_utils import vision_process
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision_functional
from transformers import Qwen2VLImageProcessor, Qwen3VLVideoProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as resize_volume

import media
import reference_model as ref
from layout import OUT

FACTOR, PATCH = 32, 16
IMAGE_LIMITS, VIDEO_LIMITS = (65536, 16777216), (4096, 25165824)
HALF = [0.5, 0.5, 0.5]


def patchify(frames: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """uint8 [T, h, w, 3], already resized -> float32 [gt*gh*gw, 1536] and the grid; an odd last frame is repeated."""
    if frames.shape[0] % 2:
        frames = np.concatenate([frames, frames[-1:]])
    t, height, width, _ = frames.shape
    gt, gh, gw = t // 2, height // PATCH, width // PATCH
    x = ((frames / 255.0 - 0.5) / 0.5).astype(np.float32).transpose(0, 3, 1, 2)
    x = x.reshape(gt, 2, 3, gh // 2, 2, PATCH, gw // 2, 2, PATCH).transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return x.reshape(gt * gh * gw, 6 * PATCH * PATCH), [gt, gh, gw]


def image_patches(path: str, limits: dict):
    image = Image.open(path).convert("RGB")
    low, high = limits.get("min_pixels", IMAGE_LIMITS[0]), limits.get("max_pixels", IMAGE_LIMITS[1])
    height, width = vision_process.smart_resize(image.height, image.width, FACTOR, low, high)
    image = image.resize((width, height), Image.BICUBIC)
    processor = Qwen2VLImageProcessor(min_pixels=low, max_pixels=high, patch_size=PATCH, image_mean=HALF, image_std=HALF, do_resize=False)
    out = processor(images=[image], return_tensors="pt")
    pixels, grid = out["pixel_values"], out["image_grid_thw"][0].tolist()
    own, own_grid = patchify(np.asarray(image)[None])
    assert own_grid == grid and np.abs(own - pixels.numpy()).max() < 2e-6
    return pixels, grid


def video_patches(frames: np.ndarray, limits: dict):
    """Limits of the prompt are of each frame; the model's are of all."""
    count, height, width, _ = frames.shape
    size = resize_volume(count, height, width, 2, FACTOR, *VIDEO_LIMITS)
    if "max_pixels" in limits and size[0] * size[1] > limits["max_pixels"]:
        size = vision_process.smart_resize(height, width, FACTOR, 1, limits["max_pixels"])
    elif "min_pixels" in limits and size[0] * size[1] < limits["min_pixels"]:
        size = vision_process.smart_resize(height, width, FACTOR, limits["min_pixels"], 1 << 40)
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)
    resized = vision_functional.resize(tensor, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    processor = Qwen3VLVideoProcessor(do_resize=False, do_sample_frames=False)
    out = processor(videos=[resized], return_tensors="pt")
    pixels, grid = out["pixel_values_videos"], out["video_grid_thw"][0].tolist()
    own, own_grid = patchify(resized.permute(0, 2, 3, 1).numpy())
    assert own_grid == grid and np.abs(own - pixels.numpy()).max() < 2e-6
    return pixels, grid


def read_media(case: dict, prompt: dict) -> list:
    """(kind, patches, grid, seconds of each slice) per clip."""
    result = []
    for name in prompt["media"]:
        if name.endswith(".npy"):
            frames = media.load(name)
            times = Qwen3VLProcessor._calculate_timestamps(None, list(range(len(frames))), 2.0, 2)
            result.append(("video", *video_patches(frames, prompt["limits"]), times))
        else:
            result.append(("image", *image_patches(str(OUT / "media" / name), prompt["limits"]), []))
    return result


def encode_prompt(tokenizer, rendered: str, clips: list) -> list[int]:
    """Ids of the rendered template; the text is expanded before it is encoded, as transformers' processor does it."""
    text = rendered
    for kind, _, (gt, gh, gw), times in clips:
        pads = "<|place|>" * (gh * gw // 4)
        if kind == "image":
            text = text.replace("<|image_pad|>", pads.replace("place", "image_done"), 1)
        else:
            slices = [f"<{time:.1f} seconds><|vision_start|>{pads.replace('place', 'video_done')}<|vision_end|>" for time in times]
            assert len(slices) == gt
            text = text.replace("<|vision_start|><|video_pad|><|vision_end|>", "".join(slices), 1)
    for kind in ("image", "video"):
        text = text.replace(f"<|{kind}_done|>", f"<|{kind}_pad|>")
    return tokenizer(text)["input_ids"]


class Prompt(ref.Prompt):
    """Every slice of a video is a block of positions of its own."""

    def __init__(self, model, ids, clips):
        config = model.config
        self.ids = torch.tensor([ids])
        self.media = clips
        pad = {"image": config.image_token_id, "video": config.video_token_id}
        runs, at = [], 0
        for kind, _, (gt, gh, gw), _ in clips:
            for _ in range(gt):
                begin = ids.index(pad[kind], at)
                runs += [("text", begin - at), ("media", 1, gh // 2, gw // 2, 1.0)]
                at = begin + gh * gw // 4
                assert ids[begin:at] == [pad[kind]] * (at - begin) and (at == len(ids) or ids[at] != pad[kind])
        runs.append(("text", len(ids) - at))
        self.positions, self.delta = ref.rope_positions(runs, None)
        self._check_positions(model)


@torch.no_grad()
def vision_stages(model, prompt: Prompt) -> dict:
    """vision and deep_NN, each [visual tokens, H], in prompt order."""
    made = [model.model.visual(pixels.to(model.dtype), grid_thw=torch.tensor([grid])) for _, pixels, grid, _ in prompt.media]
    stages = {"vision": torch.cat([rows for rows, _ in made])}
    for layer in range(len(made[0][1])):
        stages[f"deep_{layer:02d}"] = torch.cat([deep[layer] for _, deep in made])
    return stages


def id_fields(ids: dict) -> dict:
    return {"vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
            "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"]}


def published(ids: dict) -> dict:
    """The published form; q_proj is wider than the hidden state, the tower's heads have 72 dims, its table an odd side."""
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"], **id_fields(ids), "model_type": "qwen3_vl",
        "text_config": {
            "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": ids["<|endoftext|>"], "dtype": "bfloat16",
            "eos_token_id": ids["<|im_end|>"], "head_dim": 64, "hidden_act": "silu", "hidden_size": 192, "initializer_range": 0.02,
            "intermediate_size": 320, "max_position_embeddings": 262144, "model_type": "qwen3_vl_text", "num_attention_heads": 4,
            "num_hidden_layers": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [12, 10, 10], "rope_type": "default"}, "rope_theta": 1000.0,
            "tie_word_embeddings": False, "use_cache": True, "vocab_size": 768},
        "tie_word_embeddings": False, "transformers_version": "4.57.0.dev0",
        "vision_config": {
            "deepstack_visual_indexes": [0, 1, 3], "depth": 4, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 144, "in_channels": 3,
            "initializer_range": 0.02, "intermediate_size": 200, "model_type": "qwen3_vl", "num_heads": 2, "num_position_embeddings": 49,
            "out_hidden_size": 192, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2}}


def version5(ids: dict) -> dict:
    """As transformers 5.x saves it: rope_parameters, a name of its own for the tower; tied, as the root alone says."""
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"], "dtype": "float32", **id_fields(ids), "model_type": "qwen3_vl",
        "text_config": {
            "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": ids["<|endoftext|>"], "dtype": "float32",
            "eos_token_id": ids["<|im_end|>"], "head_dim": 48, "hidden_act": "silu", "hidden_size": 160, "initializer_range": 0.02,
            "intermediate_size": 256, "max_position_embeddings": 262144, "model_type": "qwen3_vl_text", "num_attention_heads": 2,
            "num_hidden_layers": 3, "num_key_value_heads": 1, "rms_norm_eps": 1e-06,
            "rope_parameters": {"mrope_interleaved": True, "mrope_section": [8, 9, 7], "rope_theta": 100.0, "rope_type": "default"},
            "use_cache": True, "vocab_size": 672},
        "tie_word_embeddings": True, "transformers_version": "5.2.0",
        "vision_config": {
            "deepstack_visual_indexes": [1], "depth": 3, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 128, "in_channels": 3,
            "initializer_range": 0.02, "intermediate_size": 180, "model_type": "qwen3_vl_vision", "num_heads": 2,
            "num_position_embeddings": 64, "out_hidden_size": 160, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2}}


def preprocessor(limits: tuple) -> dict:
    return {"size": {"shortest_edge": limits[0], "longest_edge": limits[1]}, "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2,
            "image_mean": HALF, "image_std": HALF}


IMAGE_JSON = {**preprocessor(IMAGE_LIMITS), "processor_class": "Qwen3VLProcessor", "image_processor_type": "Qwen2VLImageProcessorFast"}
VIDEO_JSON = {**preprocessor(VIDEO_LIMITS), "processor_class": "Qwen3VLProcessor", "video_processor_type": "Qwen3VLVideoProcessor"}
