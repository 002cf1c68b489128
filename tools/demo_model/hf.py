"""The demo model through transformers: loading, videos as Qwen2.5-VL samples them, greedy answers."""
import numpy as np
import torch

SYSTEM_FPS = 2.0


def load(directory, dtype=torch.float32):
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(directory, dtype=dtype, attn_implementation="sdpa").eval()
    return model, AutoProcessor.from_pretrained(directory)


def read_video(path):
    """uint8 [n, 3, H, W]: all frames of an mp4, thinned to 2 per second by the rule of qwen-vl-utils."""
    import av
    with av.open(path) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate)
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
    total = len(frames)
    n = min(max(total / fps * SYSTEM_FPS, 4), total // 2 * 2, 768)
    n = int(n) // 2 * 2
    index = torch.linspace(0, total - 1, n).round().long().numpy()
    return torch.from_numpy(frames[index]).permute(0, 3, 1, 2).contiguous()


def inputs(processor, prompt, video=None):
    """Model inputs for one question; without a video the same question goes out blind."""
    content = ([{"type": "video"}] if video is not None else []) + [{"type": "text", "text": prompt}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
    more = {} if video is None else {"videos": [video], "do_resize": True, "fps": SYSTEM_FPS}
    return processor(text=[text], return_tensors="pt", **more)


def cache_tower(model):
    """Makes repeated questions about one video cheap: the tower's tokens of the last video are kept."""
    original, memory = model.model.get_video_features, {}

    def remembered(pixels, grid=None, **kw):
        key = (pixels.data_ptr(), tuple(pixels.shape), float(pixels.float().sum()))
        if key not in memory:
            memory.clear()
            memory[key] = original(pixels, grid, **kw)
        return memory[key]
    model.model.get_video_features = remembered


@torch.no_grad()
def answer(model, processor, prompt, video=None, limit=160):
    batch = inputs(processor, prompt, video)
    out = model.generate(**batch, max_new_tokens=limit, do_sample=False)
    return processor.batch_decode(out[:, batch["input_ids"].shape[1]:], skip_special_tokens=True)[0].strip()
