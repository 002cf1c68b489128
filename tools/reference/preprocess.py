"""Pixels to patches, through the published code: qwen-vl-utils for sizes and resampling, transformers for the rest.

`patchify` is the same thing written from its definition; every call is checked against transformers, so the layout
[gt, gh/2, gw/2, mh, mw | C, tp, ph, pw] is proven and not only quoted.
"""
import numpy as np
import torch
from PIL import Image
from qwen_vl_utils import vision_process
from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


def patchify(frames: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """uint8 [T, h, w, 3], already resized -> float32 [gt*gh*gw, 1176] and the grid; an odd last frame is repeated."""
    if frames.shape[0] % 2:
        frames = np.concatenate([frames, frames[-1:]])
    t, height, width, _ = frames.shape
    gt, gh, gw = t // 2, height // 14, width // 14
    x = ((frames / 255.0 - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2)
    x = x.reshape(gt, 2, 3, gh // 2, 2, 14, gw // 2, 2, 14).transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return x.reshape(gt * gh * gw, 1176), [gt, gh, gw]


def image_patches(path: str, min_pixels: int, max_pixels: int):
    """(float32 tensor [patches, 1176], grid) of one picture file."""
    image = vision_process.fetch_image({"image": path, "min_pixels": min_pixels, "max_pixels": max_pixels})
    out = Qwen2VLImageProcessor(min_pixels=min_pixels, max_pixels=max_pixels)(images=[image], return_tensors="pt")
    pixels, grid = out["pixel_values"], out["image_grid_thw"][0].tolist()
    own, own_grid = patchify(np.asarray(image)[None])
    assert own_grid == grid and np.abs(own - pixels.numpy()).max() < 2e-6
    return pixels, grid


def video_patches(frames: np.ndarray, limits: dict):
    """(float32 tensor [patches, 1176], grid) of frames that are already sampled, resized as qwen-vl-utils does it.

    fetch_video reads files through a table of backends; one entry that hands out our frames lets the rest of the
    function run unchanged. `limits` holds min_pixels / max_pixels only where the caller gave them."""
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)
    metadata = {"fps": 2.0, "frames_indices": list(range(len(frames))), "total_num_frames": len(frames), "video_backend": "frames"}
    vision_process.VIDEO_READER_BACKENDS["frames"] = lambda ele: (tensor, metadata, 2.0)
    vision_process.get_video_reader_backend = lambda: "frames"
    resized = vision_process.fetch_video({"video": "frames.npy", **limits})
    # do_resize=False: the processor has limits of its own and would enlarge what the caller asked to be small.
    out = Qwen2VLVideoProcessor(do_resize=False)(videos=[resized], return_tensors="pt")
    pixels, grid = out["pixel_values_videos"], out["video_grid_thw"][0].tolist()
    own, own_grid = patchify(resized.permute(0, 2, 3, 1).numpy())
    assert own_grid == grid and np.abs(own - pixels.numpy()).max() < 2e-6
    return pixels, grid
