#!/usr/bin/env python3
"""Makes a tiny set in MileBench's form, and a tiny LLaVA-1.5 of random weights, to see scripts/milebench.sh run from end to end.

    tools/milebench/tiny.py DIR      # DIR/data and DIR/model; needs build/release/bin/purekv-make-random-model

Pictures are squares on grounds of eight colours. The tasks have names of MileBench's, one or more of each kind of judging, and what its
files hold besides: images next to one another, tables as images, contexts that name no image, one with more images than a model takes.
Answers of random weights say nothing about quality. Python's standard library only.
"""
import argparse
import json
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "tests/data/reference"
COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200), "yellow": (230, 210, 40), "purple": (130, 40, 160),
           "orange": (240, 140, 20), "white": (240, 240, 240), "black": (20, 20, 20)}
SIDE = 64


def png(ground, square, at):
    """A picture of 64 x 64: a square of 24 pixels, its corner at `at`, on a ground. Bytes of a PNG file."""
    rows = bytearray()
    for y in range(SIDE):
        rows.append(0)  # no filter
        for x in range(SIDE):
            inside = at[0] <= x < at[0] + 24 and at[1] <= y < at[1] + 24
            rows += bytes(COLOURS[square if inside else ground])

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b"")


class Task:
    def __init__(self, folder, name, question_type, instruction):
        self.folder, self.name = folder / name, name
        self.random = random.Random(name)
        self.samples = []
        self.meta = {"dataset": name, "question_type": question_type, "task_instruction": [instruction, instruction + " Look well."]}
        (self.folder / "images").mkdir(parents=True, exist_ok=True)

    def pictures(self, count):
        """Names of new pictures, and the colours of their squares."""
        names, squares = [], []
        for i in range(count):
            ground, square = self.random.sample(sorted(COLOURS), 2)
            name = f"{len(self.samples)}_{i}.png"
            corner = (self.random.randrange(SIDE - 24), self.random.randrange(SIDE - 24))
            (self.folder / "images" / name).write_bytes(png(ground, square, corner))
            names.append(name)
            squares.append(square)
        return names, squares

    def add(self, context, images, response, choices=None):
        instance = {"context": context, "images_path": images}
        if choices:
            instance["choice_list"] = choices
        level = "Few" if len(images) < 6 else "Medium" if len(images) < 32 else "Many"
        self.samples.append({"sample_id": len(self.samples), "task_instruction_id": len(self.samples) % 2, "task_instance": instance,
                             "response": response, "image_quantity_level": level})

    def write(self):
        text = json.dumps({"meta_data": self.meta, "data": self.samples}, indent=1)
        (self.folder / f"{self.name}.json").write_text(text + "\n", encoding="utf-8")


def colours_and(task, right):
    """Three other colours and the right one, in some order."""
    choices = [right, *task.random.sample([one for one in COLOURS if one != right], 3)]
    task.random.shuffle(choices)
    return choices


def make_data(folder, samples):
    tasks = {name: Task(folder, name, kind, instruction) for name, kind, instruction in (
        ("ActionSequence", "multi-choice", "The pictures are frames of a video. Answer the question."),
        ("ActionPrediction", "multi-choice", "What comes next?"),
        ("ALFRED", "open-ended", "Write down what to do next."),
        ("CLEVR-Change", "open-ended", "Say what has changed between the pictures."),
        ("MMCoQA", "open-ended", "Answer with a word of the tables or pictures."),
        ("ImageNeedleInAHaystack", "open-ended", "One picture has another ground."),
        ("GPR1200", "multi-choice", "Which picture is like the first?"))}
    for i in range(samples):
        task = tasks["ActionSequence"]
        names, squares = task.pictures(3 + i)
        frames = "\n".join(f"Frame {k}: {{image#{k}}}" for k in range(1, len(names) + 1))
        task.add(f"{frames}\nQuestion: which square comes last?", names, squares[-1], colours_and(task, squares[-1]))

        task = tasks["ActionPrediction"]  # the context does not name its images
        names, squares = task.pictures(3)
        task.add("Question: which square is next?", names, squares[0], colours_and(task, squares[0]))

        task = tasks["ALFRED"]
        names, squares = task.pictures(40 if i == 0 else 4)  # more than fit, once
        steps = " ".join(f"Step {k}: {{image#{k}}} then go on." for k in range(1, len(names) + 1))
        task.add(f"{steps} What next?", names, f"Walk to the {squares[-1]} square, then pick up the {squares[0]} one.")

        task = tasks["CLEVR-Change"]
        names, squares = task.pictures(2)
        task.add("{image#1}{image#2}", names, f"The {squares[0]} square has become {squares[1]}.")

        task = tasks["MMCoQA"]
        names, squares = task.pictures(3)
        task.add(f"Table: {{table#1}} Pictures: {{image#2}} and {{image#3}}. Which square does {{image#2}} show?", names, squares[1])

        task = tasks["ImageNeedleInAHaystack"]
        names, squares = task.pictures(6)
        task.add("".join(f"Page {k}: {{image#{k}}}\n" for k in range(1, 7)) + "Which square is on page 4?", names, squares[3])

        task = tasks["GPR1200"]
        names, _ = task.pictures(4)
        task.add("{image#1} is like which of {image#2} {image#3} {image#4}?", names, "second", ["second", "third", "fourth"])
    for task in tasks.values():
        task.write()


def make_model(folder, maker):
    """The tests' tiny LLaVA-1.5 in transformers' layout: 16 tokens an image, 1024 positions."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("llava/config.json", "llava/generation_config.json", "llava/preprocessor_config.json", "llava_tokenizer/chat_template.json",
                 "llava_tokenizer/tokenizer.json", "llava_tokenizer/tokenizer_config.json"):
        shutil.copy(REFERENCE / name, folder)
    subprocess.run([str(maker), str(folder), "--seed", "71", "--dtype", "f16", "--layout", "language_model"], check=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--samples", type=int, default=4, help="of each task (default 4)")
    parser.add_argument("--maker", type=pathlib.Path, default=ROOT / "build/release/bin/purekv-make-random-model")
    arguments = parser.parse_args(argv)
    make_data(arguments.dir / "data", arguments.samples)
    if not arguments.maker.exists():
        print(f"tiny.py: {arguments.maker}: no program; build it (scripts/build.sh --target purekv_make_random_model)", file=sys.stderr)
        return 1
    make_model(arguments.dir / "model", arguments.maker)
    return 0


if __name__ == "__main__":
    sys.exit(main())
