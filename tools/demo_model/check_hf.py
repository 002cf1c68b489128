"""Proves that transformers and the training module compute the same from the exported files.

    python check_hf.py MODEL_DIR

For frames of 112 and 168 px (a grid that the tower's window divides, and one that it does not): the same prompt ids, the
same patches, the same M-RoPE positions, and logits equal to rounding in float32; then the same for two slots behind one
video, each against a separate transformers run.
"""
import sys

import numpy as np
import torch
from safetensors.torch import load_file

import hf
import tokenizer as tokenizer_module
from batches import MIDDLE, Packer
from config import Config
from model import DemoModel, patchify
from questions import ask
from scenes import Renderer, sample_scene


@torch.no_grad()
def compare(directory, model, packer):
    """Raises where the directory and the training module, both in float32, differ."""
    reference, processor = hf.load(directory)
    renderer, rng = Renderer(), np.random.default_rng(5)
    worst = 0.0
    for slices, grid in ((6, 4), (5, 6)):
        scene = sample_scene(rng, slices, grid)
        frames, _ = renderer.render(rng, scene)
        pairs = ask(rng, scene, 8)[0][:2]
        heads = [packer.ids(q.prompt + MIDDLE) for q in pairs]
        rows = max(len(h) for h in heads)
        text = packer.vision_end + [i for h in heads for i in h + [packer.pad] * (rows - len(h))]
        groups = ((2, rows),)
        positions = torch.from_numpy(packer.positions(slices, grid, 1.0, groups))[:, None]
        patches = patchify(torch.from_numpy(frames)[None])
        hidden, _, _ = model(patches, torch.tensor(packer.prefix), torch.tensor([text]), positions, groups)
        ours = model.logits(hidden)[0].view(2, rows, -1)
        for i, (q, head) in enumerate(zip(pairs, heads)):
            batch = hf.inputs(processor, q.prompt, torch.from_numpy(frames).permute(0, 3, 1, 2))
            n = slices * grid * grid
            ids = batch["input_ids"][0].tolist()
            video_pad = reference.config.video_token_id
            assert ids == packer.prefix + [video_pad] * n + packer.vision_end + head, "prompt ids differ"
            gap = (batch["pixel_values_videos"] - patches.view(-1, 1176)).abs().max().item()
            assert gap < 1e-4, f"patches differ by {gap}"
            where, _ = reference.model.get_rope_index(batch["input_ids"], None, batch["video_grid_thw"],
                                                      batch.get("second_per_grid_ts"), batch["attention_mask"])
            start = len(packer.prefix) + n + 1
            mine = torch.cat([positions[:, 0, :start], positions[:, 0, start + i * rows:start + i * rows + len(head)]], 1)
            assert torch.equal(where[:, 0], mine), "positions differ"
            theirs = reference(**batch).logits[0, start:]
            gap = (theirs - ours[i, :len(head)]).abs().max().item()
            worst = max(worst, gap)
            print(f"{grid * 28} px, {slices} slices, {q.type}: ids, patches, positions equal; logits differ by at most {gap:.1e}")
    assert worst < 2e-3, worst
    print("ok")


def main(directory):
    model = DemoModel(Config())
    model.load_state_dict({k: v.float() for k, v in load_file(f"{directory}/model.safetensors").items()})
    compare(directory, model, Packer(tokenizer_module.build()))


if __name__ == "__main__":
    main(sys.argv[1])
