"""Packs videos and question-answer pairs into training batches.

Several pairs stand behind one video, each in a slot of its own: it sees the prompt prefix and the video only and has
the positions it would have alone. Otherwise earlier answers give later ones away and the model learns to read text
instead of the video. With `turns` the pairs follow each other in one slot, as a real conversation does.
"""
import io

import av
import numpy as np
import torch

from questions import TYPES, ask
from scenes import COLOUR_NAMES, MOTIONS, SHAPES, sample_scene, third

HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
MIDDLE = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"
TURN = "\n<|im_start|>user\n"
IGNORE = -100


class Packer:
    def __init__(self, tokenizer, head=HEAD):
        self.tok = tokenizer
        self.known = {}
        self.prefix = self.ids(head)
        self.vision_end = self.ids("<|vision_end|>")
        self.pad = tokenizer.token_to_id("<|endoftext|>")

    def ids(self, text):
        if text not in self.known:
            if len(self.known) > 200000:
                self.known.clear()
            self.known[text] = self.tok.encode(text, add_special_tokens=False).ids
        return self.known[text]

    def slot(self, pairs):
        """ids, shifted labels (a row predicts the next id of an answer), type, pair number and named object per row of a
        conversation. The object, named by its shape alone, is 6 * shape + colour from that word on; else -1."""
        ids, labels, kind, number, noun = [], [], [], [], []
        for i, q in enumerate(pairs):
            head = self.ids((TURN if i else "") + q.prompt + MIDDLE)
            answer = self.ids(q.answer + END)
            noun += [-1] * (len(head) + len(answer))
            if getattr(q, "by_shape", ()):
                at = head.index(self.ids(" " + q.by_shape[0])[0])
                noun[len(ids) + at:] = [len(COLOUR_NAMES) * SHAPES.index(q.by_shape[0]) + COLOUR_NAMES.index(q.by_shape[1])
                                        ] * (len(head) + len(answer) - at)
            ids += head + answer
            labels += [IGNORE] * (len(head) - 1) + answer + [IGNORE]
            kind += [TYPES.index(q.type)] * (len(head) + len(answer))
            number += [i] * (len(head) + len(answer))
        return ids, labels, kind, number, noun

    def positions(self, slices, grid, seconds, groups):
        """M-RoPE ids [3, L] for prefix, video and text; `seconds` is second_per_grid_t, 2 tokens per second."""
        n0 = len(self.prefix)
        t, y, x = np.meshgrid(np.arange(slices), np.arange(grid), np.arange(grid), indexing="ij")
        t = np.floor(t.astype(np.float32) * np.float32(seconds) * 2).astype(np.int64)
        video = np.stack([t.ravel(), y.ravel(), x.ravel()]) + n0
        after = [0] + [p for count, rows in groups for _ in range(count) for p in range(1, rows + 1)]
        text = video.max() + 1 + np.array(after)
        return np.concatenate([np.tile(np.arange(n0), (3, 1)), video, np.tile(text, (3, 1))], axis=1)


def cell_labels(scene, cover):
    """Per cell [T, g, g, 6]: colour, shape, motion, rank (0 = none, -1 = too little to say), third of the video, quadrant."""
    n, grid = scene.slices, scene.grid
    out = np.zeros((n, grid, grid, 6), np.int64)
    if len(cover):
        who = cover.argmax(axis=0)
        share = cover.max(axis=0)
        for k, obj in enumerate(scene.objects):
            on = (who == k) & (share > 0.35)
            out[on, :4] = (1 + COLOUR_NAMES.index(obj.colour), 1 + SHAPES.index(obj.shape), 1 + MOTIONS.index(obj.motion),
                           1 + obj.rank)
        out[(share > 0.02) & (share <= 0.35), :4] = -1
    out[..., 4] = np.array([third(t, n) for t in range(n)])[:, None, None]
    half = np.arange(grid) >= grid / 2
    out[..., 5] = 2 * half[:, None] + half[None, :]
    return out


def soften(rng, frames):
    """What a video codec does to a clip, roughly: half-resolution chroma and a little blur."""
    f = frames.astype(np.float32)
    luma = f @ np.array([0.299, 0.587, 0.114], np.float32)
    chroma = f - luma[..., None]
    n, h, w, _ = f.shape
    small = chroma.reshape(n, h // 2, 2, w // 2, 2, 3).mean(axis=(2, 4))
    chroma = small.repeat(2, axis=1).repeat(2, axis=2)
    if rng.random() < 0.5:
        keep = rng.uniform(0.6, 0.95)
        side = (1 - keep) / 2
        luma = keep * luma + side * (np.roll(luma, 1, 1) + np.roll(luma, -1, 1))
        luma = keep * luma + side * (np.roll(luma, 1, 2) + np.roll(luma, -1, 2))
    return np.clip(luma[..., None] + chroma + 0.5, 0, 255).astype(np.uint8)


def encode(frames, crf):
    """Through H.264 and back, with the program's own settings for the held-out files but a faster preset."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=2, options={"preset": "superfast", "crf": str(crf), "threads": "1"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


SHORT_ROWS = 28              # rows of a slot for one short question


def make_batch(rng, packer, renderer, size, slices, grid, turns=False, soft=0.2, coded=0.2, stretch=0.5, max_objects=None, pairs=8, text=True, shares=None, by_shape=0.0, fit=False):
    """One batch of `size` videos as a dict of CPU tensors (frames uint8).

    Every video has `pairs` slots with a short question each and one slot with the description; with `turns`, one
    slot with a conversation of three short questions and the description in random order. Without `text`, the
    pictures and their cell labels alone. With `fit`, the slots are as long as this batch's questions need, the shorter half of
    the short ones by itself: a large decoder saves a fifth of its rows, where a small one gains more from equal shapes.
    """
    content, frames, labels, seconds = [], [], [], []
    for _ in range(size):
        scene = sample_scene(rng, slices, grid, max_objects)
        picture, cover = renderer.render(rng, scene)
        draw = rng.random()
        frames.append(encode(picture, int(rng.integers(20, 27))) if draw < coded else
                      soften(rng, picture) if draw < coded + soft else picture)
        labels.append(cell_labels(scene, cover))
        if not text:
            continue
        short, whole = ask(rng, scene, pairs, shares, by_shape)
        if turns:
            talk = short[:3] + [whole]
            content.append([packer.slot([talk[i] for i in rng.permutation(4)])])
        else:
            content.append([packer.slot([q]) for q in short] + [packer.slot([whole])])
        # later positions are seen early: half of the videos are spread over up to about 400 positions
        seconds.append(1.0 if rng.random() > stretch else rng.uniform(0.5, max(1.0, 190 / slices)))
    if not text:
        return {"frames": torch.from_numpy(np.stack(frames)), "cells": torch.from_numpy(np.stack(labels))}
    longest = 64 if slices < 6 else 80 if slices < 10 else 104        # fixed, so that shapes repeat: 2, 3, 4 events
    longest += 96 if turns else 0
    groups = ((1, longest),) if turns else ((pairs, SHORT_ROWS), (1, longest))
    if fit and not turns:
        for slots in content:
            slots[:pairs] = sorted(slots[:pairs], key=lambda slot: len(slot[0]))
        ends = ((0, pairs // 2), (pairs // 2, pairs), (pairs, pairs + 1))
        groups = tuple((b - a, -(-max(len(slot[0]) for slots in content for slot in slots[a:b]) // 4) * 4) for a, b in ends)
    starts = np.cumsum([0] + [rows for count, rows in groups for _ in range(count)])
    total = int(starts[-1])
    ids = np.full((size, 1 + total), packer.pad)
    ids[:, 0] = packer.vision_end
    target, kind, number, noun = (np.full((size, total), v) for v in (IGNORE, -1, -1, -1))
    for i, slots in enumerate(content):
        for j, (a, b, c, d, e) in enumerate(slots):
            at = starts[j]
            ids[i, 1 + at:1 + at + len(a)] = a
            target[i, at:at + len(a)], kind[i, at:at + len(a)] = b, c
            number[i, at:at + len(a)] = np.array(d) + 100 * j
            noun[i, at:at + len(a)] = e
    positions = np.stack([packer.positions(slices, grid, s, groups) for s in seconds], axis=1)
    return {"frames": torch.from_numpy(np.stack(frames)), "cells": torch.from_numpy(np.stack(labels)),
            "prefix": torch.tensor(packer.prefix), "text": torch.from_numpy(ids), "target": torch.from_numpy(target),
            "kind": torch.from_numpy(kind), "number": torch.from_numpy(number), "noun": torch.from_numpy(noun), "positions": torch.from_numpy(positions),
            "groups": groups}
