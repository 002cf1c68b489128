"""Sizes, frame indices, window orders, position ids and resampled pixels, from the published functions themselves."""
import warnings

import numpy as np
import torch
from PIL import Image
from qwen_vl_utils import vision_process
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tvf
from transformers import Qwen2VLVideoProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as hf_smart_resize
from transformers.video_utils import VideoMetadata

import media
from layout import OUT, save_npy, write_json
from random_weights import element_words
from reference_model import rope_positions


class Draw:
    """A stream of numbers from the weight hash, so that the data does not hang on a library's generator."""

    def __init__(self, name: str):
        self.name, self.at = name, 0

    def __call__(self, low: int, high: int) -> int:
        """Integer in [low, high]."""
        self.at += 1
        return low + int(element_words("draw." + self.name, 0, self.at, 1)[0] >> np.uint64(20)) % (high - low + 1)

    def pick(self, values):
        return values[self(0, len(values) - 1)]


def attempt(function, *args):
    try:
        return list(function(*args))
    except (ValueError, AssertionError, ZeroDivisionError):
        return None


def smart_resize_rows() -> list:
    """[h, w, min, max, [h', w'] or null of qwen-vl-utils, the same of transformers]"""
    draw, rows = Draw("smart_resize"), []
    fixed = [(28, 28), (1, 1), (1, 200), (1, 201), (14, 14), (42, 70), (70, 42), (98, 14), (10, 1000), (1000, 28), (480, 640), (1080, 1920),
             (2160, 3840), (4096, 4096), (8000, 40), (56, 56), (55, 57), (27, 29)]
    for i in range(360):
        top = draw.pick([60, 300, 1200, 5000])
        h, w = fixed[i] if i < len(fixed) else (draw(1, top), draw(1, top))
        low, high = draw.pick([(3136, 12845056), (3136, 12845056), (200704, 1003520), (100352, 602112), (3136, 3136), (784, 50176)])
        rows.append([h, w, low, high, attempt(vision_process.smart_resize, h, w, 28, low, high), attempt(hf_smart_resize, h, w, 28, low, high)])
    return rows


def video_resize_rows() -> list:
    """[frames, h, w, min or null, max or null, [h', w']] of fetch_video, its resampling replaced by a note of the size."""
    draw, rows, seen = Draw("video_resize"), [], []
    original, read = tvf.resize, vision_process.get_video_reader_backend
    vision_process.get_video_reader_backend = lambda: "empty"
    vision_process.transforms.functional.resize = lambda video, size, **_: seen.append(size) or video
    for _ in range(120):
        frames, h, w = draw.pick([2, 4, 10, 64, 300, 768]), draw(20, 2200), draw(20, 2200)
        low, high = draw.pick([(None, None)] * 4 + [(3136, None), (3136, 50176), (12544, 25088), (None, 200704), (None, 10 ** 9), (401408, None), (None, 50176)])
        limits = {k: v for k, v in (("min_pixels", low), ("max_pixels", high)) if v is not None}
        empty = torch.empty(1, dtype=torch.uint8).expand(frames, 0, h, w)
        vision_process.VIDEO_READER_BACKENDS["empty"] = lambda ele, v=empty: (v, {}, 2.0)
        try:
            vision_process.fetch_video({"video": "x", **limits})
            rows.append([frames, h, w, low, high, seen[-1]])
        except (ValueError, AssertionError):
            rows.append([frames, h, w, low, high, None])
    vision_process.transforms.functional.resize, vision_process.get_video_reader_backend = original, read
    return rows


def digest(indices: list[int]) -> dict:
    """Enough to compare a long list: its length, ends, and the sum of i-th value times (i + 1) modulo 2^31 - 1."""
    mixed = sum((i + 1) * v for i, v in enumerate(indices)) % (2 ** 31 - 1)
    return {"n": len(indices), "first": indices[:8], "last": indices[-8:], "mixed": mixed}


def frame_rows() -> list:
    draw, rows = Draw("frames"), []
    processor = Qwen2VLVideoProcessor()
    fixed = [(300, 30.0, 2.0), (100, 25.0, 2.0), (7, 30.0, 2.0), (9000, 29.97, 2.0), (54000, 30.0, 2.0), (250, 24.0, 2.0), (2, 30.0, 2.0),
             (3, 30.0, 2.0), (1, 30.0, 2.0), (4, 2.0, 2.0), (5, 2.0, 2.0), (6, 1.0, 2.0)]
    for i in range(200):
        total, rate = draw.pick([draw(1, 12), draw(4, 400), draw(100, 20000), draw(4, 2000)]), draw.pick([23.976, 24.0, 25.0, 29.97, 30.0, 60.0, 1.0, 12.5])
        fps = draw.pick([2.0, 2.0, 1.0, 0.5, 3.0, 4.0, 30.0])
        extra = draw.pick([{}, {}, {"max_frames": draw(4, 64)}, {"min_frames": draw(2, 20)}, {"nframes": draw(2, 40)}])
        if i < len(fixed):
            (total, rate, fps), extra = fixed[i], {}
        ele = dict(extra) if "nframes" in extra else {"fps": fps, **extra}
        row = {"total": total, "video_fps": rate, **ele}
        try:
            n = vision_process.smart_nframes(ele, total_frames=total, video_fps=rate)
            row["qwen_vl_utils"] = digest(torch.linspace(0, total - 1, n).round().long().tolist())
            row["qwen_vl_utils"]["sample_fps"] = n / total * rate
        except ValueError:
            row["qwen_vl_utils"] = None
        try:
            known = {"num_frames": ele["nframes"]} if "nframes" in ele else {"fps": fps, **extra}
            picked = processor.sample_frames(VideoMetadata(total_num_frames=total, fps=rate), **known)
            row["transformers"] = digest(picked.tolist())
        except (ValueError, RuntimeError, ZeroDivisionError):
            row["transformers"] = None
        rows.append(row)
    return rows


def window_rows() -> list:
    """`index` in merged units and `cu_seqlens` in patch rows (empty windows dropped), from the tower's own function."""
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel as Tower
    grids = [[[1, 8, 12]], [[1, 20, 12]], [[2, 6, 10]], [[1, 4, 4]], [[1, 2, 2]], [[3, 8, 8]], [[1, 16, 16]], [[1, 2, 34]], [[1, 34, 2]],
             [[2, 14, 6], [1, 8, 8]], [[1, 6, 4], [3, 10, 6], [1, 2, 2]], [[4, 10, 18]]]
    rows = []
    for window in (112, 56, 84, 28):
        for grid in grids:
            fake = type("Tower", (), {"window_size": window, "spatial_merge_size": 2, "patch_size": 14, "spatial_merge_unit": 4})()
            index, cu = Tower.get_window_index(fake, torch.tensor(grid))
            rows.append({"window_size": window, "grids": grid, "index": index.tolist(), "cu_seqlens": torch.unique_consecutive(torch.tensor(cu)).tolist()})
    return rows


def position_goldens() -> dict:
    """Qwen's rule with the float32 product. transformers 4.57.1 truncates s to an integer first, so it is not asked here."""
    seconds = {"2/3": 2 / 3, "0.5": 0.5, "2.0": 2.0, "1.0": 1.0, "1/3": 1 / 3, "0.4": 0.4, "2/1.92": 2 / 1.92, "2/1.998": 2 / 1.998,
               "2/17.142857": 2 / 17.142857, "1.5": 1.5, "4.6875": 4.6875, "0.1": 0.1, "0.7": 0.7}
    steps = []
    for name, s in seconds.items():
        for tps in (2, 4, 25):
            steps.append({"s": s, "name": name, "tokens_per_second": tps, "t": (torch.arange(64) * s * tps).long().tolist()})
    full = []
    layouts = [[("text", 15), ("media", 4, 2, 3), ("text", 4)], [("text", 3), ("media", 1, 4, 6), ("text", 2), ("media", 5, 2, 2), ("text", 6)],
               [("media", 3, 1, 7), ("text", 1)], [("text", 9), ("media", 6, 3, 3)]]
    for s in (2 / 3, 0.5, 2.0, 1.0):
        for layout in layouts:
            runs = [r if r[0] == "text" else (*r, s) for r in layout]
            positions, delta = rope_positions(runs, 2)
            runs_out = [{"text": r[1]} if r[0] == "text" else {"grid": [r[1], 2 * r[2], 2 * r[3]]} for r in layout]
            full.append({"s": s, "tokens_per_second": 2, "runs": runs_out, "position_ids": positions.tolist(), "delta": delta})
    return {"about": "t: trunc(float32(float32(t) * float32(s)) * tokens_per_second) for t = 0..63; full: M-RoPE ids [3][N] of text runs and media grids (patches), s applies to every grid with t > 1",
            "steps": steps, "full": full}


RESIZE = [((1, 1), (4, 5)), ((1, 9), (6, 3)), ((9, 1), (3, 6)), ((7, 5), (7, 5)), ((7, 5), (14, 5)), ((7, 5), (7, 11)), ((5, 7), (28, 28)),
          ((30, 20), (28, 28)), ((31, 45), (28, 56)), ((90, 61), (28, 28)), ((64, 64), (3, 2)), ((2, 50), (28, 28)), ((23, 29), (22, 28)), ((12, 12), (56, 28))]


def resize_goldens() -> list:
    """uint8 in -> uint8 out by Pillow (images) and by torchvision (video): resize_NN.{in,pillow,torchvision}.npy"""
    rows = []
    for i, ((h, w), (oh, ow)) in enumerate(RESIZE):
        source = media.picture(f"resize{i}", h, w, step=i % 3, noise=120 if i % 4 == 3 else 12)
        pillow = np.asarray(Image.fromarray(source).resize((ow, oh)))
        video = tvf.resize(torch.from_numpy(source).permute(2, 0, 1)[None], [oh, ow], interpolation=InterpolationMode.BICUBIC, antialias=True)
        video = video[0].permute(1, 2, 0).numpy()
        name = f"resize_{i:02d}"
        for suffix, array in (("in", source), ("pillow", pillow), ("torchvision", video)):
            save_npy(OUT / "resize" / f"{name}.{suffix}.npy", array)
        gap = np.abs(pillow.astype(int) - video.astype(int))
        rows.append({"name": name, "in": [h, w], "out": [oh, ow], "max_difference": int(gap.max()), "share_different": round(float((gap > 0).mean()), 4)})
    return rows


def main() -> None:
    warnings.filterwarnings("ignore")
    vision_process.logger.setLevel("ERROR")
    write_json(OUT / "vision_math.json", {
        "about": {"smart_resize": "[h, w, min_pixels, max_pixels, qwen-vl-utils [h', w'] or null = refused, transformers 4.57.1 the same], factor 28",
                  "video_resize": "[frames, h, w, min_pixels or null, max_pixels or null, [h', w'] or null] of qwen-vl-utils",
                  "frames": "qwen_vl_utils: smart_nframes + linspace; transformers: Qwen2VLVideoProcessor.sample_frames; mixed = sum((i+1)*index[i]) mod 2^31-1; null = refused",
                  "windows": "index in merged units, cu_seqlens in patches"},
        "smart_resize": smart_resize_rows(), "video_resize": video_resize_rows(), "frames": frame_rows(), "windows": window_rows()}, compact=True)
    write_json(OUT / "position_ids.json", position_goldens(), compact=True)
    write_json(OUT / "resize" / "resize.json", {"about": "files NAME.in / .pillow / .torchvision .npy, uint8 [h, w, 3], bicubic with antialiasing", "pairs": resize_goldens()})


if __name__ == "__main__":
    main()
