"""Small synthetic pictures and videos: gradients, moving shapes and hash noise. No random generator, no library version.

Structure matters: flat pictures hide wrong patch orders and wrong axes, pure noise hides nothing but compresses badly.
"""

import numpy as np
from PIL import Image

from layout import OUT, save_npy, write_json
from random_weights import element_words


def picture(name: str, height: int, width: int, step: int = 0, noise: int = 6) -> np.ndarray:
    """uint8 [H, W, 3]; `step` moves the shapes, so that the frames of a video differ."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    tone = np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x + 2 * y + 11 * step) * 3 % 256], axis=-1)
    cy, cx, radius = height // 2, (width // 4 + step * width // 8) % width, max(2, min(height, width) // 4)
    tone[(y - cy) ** 2 + (x - cx) ** 2 < radius ** 2] = (220, 30, 40)
    top, left = height // 6, width * 2 // 3
    tone[top:top + max(2, height // 4), left:left + max(2, width // 5)] = (20, 60, 230 - 9 * step)
    tone[height - 1 - step % max(1, height // 3), :] = (250, 250, 5)
    words = element_words("media." + name, step, 0, height * width * 3) >> np.uint64(40)
    tone += (words % np.uint64(2 * noise + 1)).astype(np.int64).reshape(height, width, 3) - noise
    return np.clip(tone, 0, 255).astype(np.uint8)


def video(name: str, frames: int, height: int, width: int) -> np.ndarray:
    """uint8 [T, H, W, 3]"""
    return np.stack([picture(name, height, width, step=t) for t in range(frames)])


# name -> (frames or 0 for an image, height, width); no side is a multiple of 28
CLIPS = {"street.png": (0, 117, 203), "tower.png": (0, 150, 66), "button.png": (0, 31, 20), "walk.npy": (7, 46, 70),
         "run.npy": (5, 75, 52)}


def load(name: str) -> np.ndarray:
    """uint8 [H, W, 3] or [T, H, W, 3] of a committed clip."""
    path = OUT / "media" / name
    if name.endswith(".npy"):
        return np.load(path)
    return np.asarray(Image.open(path).convert("RGB"))


def write_clips() -> None:
    (OUT / "media").mkdir(parents=True, exist_ok=True)
    for name, (frames, height, width) in CLIPS.items():
        if frames:
            save_npy(OUT / "media" / name, video(name, frames, height, width))
        else:
            Image.fromarray(picture(name, height, width)).save(OUT / "media" / name, optimize=True)


def write_decode_goldens() -> None:
    """File types and colour modes: the file, and what qwen-vl-utils makes of it (decoded [H,W,3], resized [h,w,3])."""
    from qwen_vl_utils.vision_process import fetch_image, to_rgb

    folder = OUT / "decode"
    folder.mkdir(parents=True, exist_ok=True)
    base = picture("decode", 41, 59)
    alpha = np.linspace(0, 255, 41 * 59).astype(np.uint8).reshape(41, 59)
    palette = Image.fromarray(base).quantize(32, dither=Image.Dither.NONE)
    writers = {
        "rgb.jpg": lambda p: Image.fromarray(base).save(p, quality=90, subsampling=2),
        "rgb_444.jpg": lambda p: Image.fromarray(base).save(p, quality=95, subsampling=0),
        "grey.jpg": lambda p: Image.fromarray(base[..., 1]).save(p, quality=90),
        "lossless.webp": lambda p: Image.fromarray(base).save(p, lossless=True),
        "lossy.webp": lambda p: Image.fromarray(base).save(p, quality=90),
        "rgb.png": lambda p: Image.fromarray(base).save(p),
        "rgba.png": lambda p: Image.fromarray(np.dstack([base, alpha])).save(p),
        "grey.png": lambda p: Image.fromarray(base[..., 1]).save(p),
        "grey_alpha.png": lambda p: Image.merge("LA", [Image.fromarray(base[..., 1]), Image.fromarray(alpha)]).save(p),
        "palette.png": lambda p: palette.save(p),
        "palette_transparent.png": lambda p: palette.save(p, transparency=3),
        "rgb.bmp": lambda p: Image.fromarray(base).save(p),
    }
    index = []
    for name, write in writers.items():
        write(folder / name)
        opened = Image.open(folder / name)
        decoded = np.asarray(to_rgb(opened))
        resized = np.asarray(fetch_image({"image": str(folder / name), "min_pixels": 3136, "max_pixels": 12845056}))
        stem = name.replace(".", "_")
        save_npy(folder / f"{stem}.decoded.npy", decoded)
        row = {"file": name, "mode": opened.mode, "decoded": f"{stem}.decoded.npy", "size": list(decoded.shape[:2]),
               "resized_size": list(resized.shape[:2])}
        if name in ("rgb.jpg", "lossless.webp", "rgba.png"):
            save_npy(folder / f"{stem}.resized.npy", resized)
            row["resized"] = f"{stem}.resized.npy"
        index.append(row)
    write_json(folder / "decode.json", {"about": "decoded = to_rgb(Image.open(file)) of qwen-vl-utils, uint8 [H,W,3]; resized = then smart_resize(28, 3136, 12845056) and Pillow bicubic", "files": index})


if __name__ == "__main__":
    write_clips()
    write_decode_goldens()
