#!/usr/bin/env python3
"""tools/attention_predictor on rows made here, and on the demo model's where the program is built: a tiny training run, its file, and what recall says of it."""
import contextlib
import importlib.util
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/attention_predictor"))
NEEDED = ("numpy", "torch", "safetensors")
READY = all(importlib.util.find_spec(name) for name in NEEDED)
if READY:
    import numpy as np
    import torch

    import predictor
    import recall
    import train
import_failure = f"skipped: this Python lacks one of {', '.join(NEEDED)}"
PROGRAM = os.environ.get("PUREKV_DUMP_ROWS", "")


def write_dump(folder, seed, tokens=700, answer=40, rows=120, page=16):
    """Two layers of four query heads over two KV heads. Attention moves on by a page every few rows, so that the average comes late."""
    draw = np.random.default_rng(seed)
    pages = -(-tokens // page)
    at = np.arange(pages)
    weights = np.zeros((2, 4, rows, pages), dtype=np.float32)
    for layer in range(2):
        for head in range(4):
            start = draw.integers(5, 15)
            for row in range(rows):
                seen = tokens - rows + row + 1
                w = np.exp(-np.abs(at - (start + row / 8))) + 0.01
                weights[layer, head, row] = np.where(at * page < seen, w, 0) / w[at * page < seen].sum()
    folder.mkdir(parents=True)
    np.save(folder / "mass.npy", weights)
    np.save(folder / "maxima.npy", weights / 4)
    about = {"fingerprint": "ab" * 16, "page": page, "kv_heads": 2, "prompt_tokens": tokens - answer, "tokens": tokens, "layers": [2, 3]}
    (folder / "rows.json").write_text(json.dumps(about))


@unittest.skipUnless(READY, import_failure)
class Training(unittest.TestCase):
    def setUp(self):
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.folder = pathlib.Path(place.name)
        for name, seed in (("train/a", 1), ("train/b", 2), ("held/c", 3)):
            write_dump(self.folder / name, seed)

    def trained(self, name, steps=40):
        with contextlib.redirect_stderr(io.StringIO()):
            error = train.train(predictor.dumps_below(self.folder / "train"), self.folder / name, steps, 4, 1)
        return error, (self.folder / name).read_bytes()

    def test_a_file_that_the_engine_takes_and_the_same_one_each_time(self):
        torch.set_num_threads(1)
        error, data = self.trained("one.safetensors")
        self.assertLess(error, 0.5)
        self.assertEqual(self.trained("two.safetensors")[1], data)
        header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
        self.assertEqual(header.pop("__metadata__"), {"fingerprint": "ab" * 16})
        shapes = {"conv1.weight": [16, 1, 3, 3], "conv1.bias": [16], "conv2.weight": [32, 16, 3, 3], "conv2.bias": [32], "conv3.weight": [1, 32, 1], "conv3.bias": [1]}
        self.assertEqual({name: (entry["dtype"], entry["shape"]) for name, entry in header.items()}, {name: ("F32", shape) for name, shape in shapes.items()})
        self.assertLess(len(data), 100_000)

    def test_a_file_takes_probabilities_as_they_are(self):
        torch.manual_seed(1)
        model = predictor.Predictor()
        model.save(self.folder / "scaled.safetensors", "ab" * 16, 50.0)
        rows = torch.rand(2, 64, 9) / 50
        with torch.no_grad():
            self.assertTrue(torch.allclose(predictor.Predictor.load(self.folder / "scaled.safetensors")(rows), model(rows * 50) / 50, atol=1e-7))

    def test_recall_is_that_of_the_pages_read(self):
        held = predictor.dumps_below(self.folder / "held")
        ways = {"best": lambda history, mass: mass, "worst": lambda history, mass: -mass, "ema": lambda history, mass: recall.averages(history)}
        found = {name: np.mean(recall.steps_of(held[0], None, 0.3, 5, way)) for name, way in ways.items()}
        self.assertEqual(len(recall.steps_of(held[0], None, 0.3, 5, ways["best"])), 40)
        self.assertGreater(found["best"], found["ema"])
        self.assertGreater(found["ema"], found["worst"])
        self.assertEqual(recall.steps_of(held[0], None, 1.1, 5, ways["best"]), [])  # all is read
        # 198 of 660: 12 pages, 3 of them sinks and 4 near, of 42 that there are.
        self.assertEqual(predictor.candidates(661, 198, 16), (3, 38, 5))

    def test_average_counts_the_newest_row_most(self):
        history = np.zeros((1, 64, 3), dtype=np.float32)
        history[0, 63, 0] = history[0, 62, 1] = 1
        self.assertTrue(np.allclose(recall.averages(history), [[1, 0.9, 0]]))


@unittest.skipUnless(READY, import_failure)
@unittest.skipUnless(PROGRAM and pathlib.Path(PROGRAM).exists(), "skipped: purekv-dump-rows is not built")
class Dumping(unittest.TestCase):
    def test_rows_of_the_demo_model(self):
        demo = ROOT / "models/demo"
        with tempfile.TemporaryDirectory() as place:
            out = pathlib.Path(place) / "rows"
            command = [PROGRAM, "-m", str(demo), "--video", str(demo / "eval/short-00.mp4"), "-p", "How many objects are in the video?", "-n", "4", "--rows", "70", "-o", str(out)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            dump = predictor.Dump(out)
            self.assertEqual((dump.layers, dump.kv_heads, dump.rows), ([2, 3, 4, 5, 6, 7], 2, 70))
            self.assertEqual(dump.maxima.shape, (6, 4, 70, -(-dump.tokens // 16)))
            self.assertTrue(np.allclose(dump.mass.sum(axis=3), 1, atol=2e-3))
            self.assertTrue((dump.maxima <= dump.mass + 1e-6).all() and (dump.maxima * 16 >= dump.mass - 1e-6).all())
            self.assertTrue((dump.mass[:, :, 0, -(-(dump.tokens - 69) // 16):] == 0).all())  # pages of later rows


if __name__ == "__main__":
    unittest.main()
