"""Writes the held-out videos (H.264 mp4, 2 frames per second) and their questions with evidence labels.

    python make_eval.py MODEL_DIR/eval [--short 40 --medium 32 --long 24]

Three lengths, about 200, 800 and 3,000 visual tokens; a quarter of the videos are 168 x 168 px, whose grid of 6 x 6 cells
the tower's window does not divide, the others 112 x 112 px. The seeds differ from those of the training, whose scenes are
drawn anew in every step.
"""
import argparse
import json
import os
import subprocess

import numpy as np

from questions import ASK, Question, about_object, count_question, describe, order_question
from scenes import Renderer, sample_scene

SLICES = {"short": {4: (12, 13), 6: (6,)}, "medium": {4: (49, 50), 6: (22,)}, "long": {4: (187, 188), 6: (83,)}}


def write_video(frames, path, crf):
    """Encode at 2 frames per second, the rate at which Qwen2.5-VL samples, so that every frame is seen."""
    n, h, w, _ = frames.shape
    command = ["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{w}x{h}", "-r", "2",
               "-i", "-", "-c:v", "libx264", "-preset", "veryfast", "-crf", str(crf), "-pix_fmt", "yuv420p", "-threads", "1",
               "-x264-params", "keyint=60:scenecut=0", "-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact",
               "-movflags", "+faststart", path]
    subprocess.run(command, input=frames.tobytes(), check=True)


def questions(rng, scene):
    """One question of every type."""
    n = len(scene.objects)
    out = [about_object(kind, scene, int(rng.integers(n)), int(rng.integers(len(ASK[kind]))))
           for kind in ("colour", "shape", "place", "time")]
    out.append(order_question(rng, scene))
    out.append(count_question(scene, int(rng.integers(len(ASK["count"])))))
    out.append(about_object("motion", scene, int(rng.integers(n)), int(rng.integers(len(ASK["motion"])))))
    out.append(Question("describe", str(rng.choice(ASK["describe"])), describe(scene), tuple(range(n))))
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("directory")
    ap.add_argument("--seed", type=int, default=20_000_003)
    ap.add_argument("--crf", type=int, default=23)
    for name, count in (("short", 40), ("medium", 32), ("long", 24)):
        ap.add_argument(f"--{name}", type=int, default=count)
    args = ap.parse_args()
    os.makedirs(args.directory, exist_ok=True)
    renderer = Renderer()
    lines = []
    for level, (length, shapes) in enumerate(SLICES.items()):
        for i in range(getattr(args, length)):
            rng = np.random.default_rng((args.seed, level, i))
            grid = 6 if i % 4 == 3 else 4
            slices = int(rng.choice(shapes[grid]))
            while True:                                  # order and description need two objects
                scene = sample_scene(rng, slices, grid)
                if len(scene.objects) >= 2:
                    break
            frames, cover = renderer.render(rng, scene, noise=1.0)
            name = f"{length}-{i:02d}.mp4"
            write_video(frames, os.path.join(args.directory, name), args.crf)
            for q in questions(rng, scene):
                cells = np.argwhere(cover[list(q.objects)].max(axis=0) > 0.05)
                lines.append({"id": f"{length}-{i:02d}-{q.type}", "video": name, "type": q.type, "prompt": q.prompt,
                              "answer": q.answer, "length": length, "slices": slices, "evidence": cells.tolist()})
    with open(os.path.join(args.directory, "questions.jsonl"), "w") as f:
        f.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
