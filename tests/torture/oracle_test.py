#!/usr/bin/env python3
"""The oracles have to see what is wrong: programs that misbehave, and results that are forged."""
import argparse
import contextlib
import copy
import io
import pathlib
import random
import tempfile
import unittest

import checks
import harness
import materials
import mutations
from draws import Command
from harness import Failure

GOOD_LINE = "echo 'purekv: error: in.json: not valid' >&2; exit 1"


class Folder(unittest.TestCase):
    def setUp(self):
        self._place = tempfile.TemporaryDirectory()
        self.addCleanup(self._place.cleanup)
        self.folder = pathlib.Path(self._place.name)

    def program(self, script):
        path = self.folder / "program"
        path.write_text("#!/bin/sh\n" + script + "\n")
        path.chmod(0o755)
        return harness.Program(path)


class Endings(Folder):
    def refuses(self, script, text, limit_s=20):
        program = self.program(script)
        with self.assertRaisesRegex(Failure, text):
            outcome = program.run([], limit_s=limit_s)
            harness.check_refusal(outcome, ["in.json"])

    def test_good_line_passes(self):
        harness.check_refusal(self.program(GOOD_LINE).run([]), ["in.json"])
        harness.check_refusal(self.program("echo 'purekv: warning: x' >&2; " + GOOD_LINE).run([]), ["in.json"])

    def test_bad_ends_are_seen(self):
        self.refuses("sleep 30", "still running", limit_s=0.2)
        self.refuses("kill -SEGV $$", "SIGSEGV")
        self.refuses("exit 3", "exit 3")
        self.refuses("exit 1", "does not end with the end of a line")
        self.refuses("echo 'purekv: broken assumption at x' >&2; exit 0", "broken assumption")
        self.refuses("echo '==1==ERROR: AddressSanitizer: heap' >&2; exit 0", "AddressSanitizer")

    def test_bad_lines_are_seen(self):
        self.refuses("echo 'purekv: x' >&2; " + GOOD_LINE, "2 lines")
        self.refuses("echo 'in.json is wrong' >&2; exit 1", "does not begin")
        self.refuses("echo 'purekv: error: not valid' >&2; exit 1", "names none of in.json")
        self.refuses(r"printf 'purekv: error: in.json \377\n' >&2; exit 1", "not UTF-8")
        self.refuses(r"printf 'purekv: error: in.json \033[31m\n' >&2; exit 1", "control characters")

    def test_memory_is_seen(self):
        program = self.program("exit 0")
        outcome = program.run([])
        outcome.peak_rss = harness.MOST_RESIDENT + 1
        with self.assertRaisesRegex(Failure, "MiB resident"):
            harness.check_sane(outcome)

    def test_files_are_seen(self):
        inputs = self.folder / "inputs"
        inputs.mkdir()
        (inputs / "a").write_text("a")
        untouched = harness.Untouched(inputs)
        before = harness.files_under(inputs)
        harness.check_files(inputs, before, [])
        (inputs / "out.tmp.17").write_text("")
        with self.assertRaisesRegex(Failure, "left behind: out.tmp.17"):
            harness.check_files(inputs, before, ["out"])
        with self.assertRaisesRegex(Failure, "an input has changed"):
            untouched.check()


class Loops(Folder):
    def loop(self, case, ending="exit 0"):
        options = argparse.Namespace(seconds=0.2, seed=5, jobs=2, only=None, failures=3, known=["known"], program="p")
        program = self.program("exit 0")
        program.endings[ending] = 100
        work = self.folder / "work"
        work.mkdir()
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            status = harness.run_loop("loop", options, program, work, case)
        return status, out.getvalue()

    def test_passes(self):
        self.assertEqual(self.loop(lambda rng, place: None)[0], 0)

    def test_a_failure_fails_and_can_be_had_again(self):
        def case(rng, place):
            (place / "input").write_text("x")
            raise Failure("wrong")

        status, out = self.loop(case)
        self.assertEqual(status, 1)
        self.assertIn("--seed 5 --only 0", out)
        self.assertTrue((self.folder / "work/case-0/input").exists())

    def test_known_failures_are_counted(self):
        def case(rng, place):
            raise Failure("a known one")

        status, out = self.loop(case)
        self.assertEqual(status, 0)
        self.assertIn("known ones besides", out)

    def test_a_mistake_of_the_loop_fails(self):
        self.assertEqual(self.loop(lambda rng, place: 1 / 0)[0], 1)

    def test_a_loop_without_successes_fails(self):
        self.assertEqual(self.loop(lambda rng, place: None, "exit 2")[0], 1)


class Catalogue:
    policies = {"snapkv": {"parameters": [{"name": "sinks", "default": "4"}]}}


class Results(unittest.TestCase):
    """A right result with its lists, and forgeries of it."""

    def setUp(self):
        self.model = materials.demo_model()
        self.command = Command("ask").add("-p", "What?").add("-n", 2).add("--kv-policy", "snapkv").add("--kv-budget", 0.5)
        self.command.add("--kv-allocator", "uniform")
        head = [0, 1, 5, 7, 9, 11, 13, 15, 17, 19]
        self.kept = {"tokens": 20, "layers": [[head] * self.model.kv_heads for _ in range(self.model.layers)]}
        entry = self.model.entry_bytes("bf16") * self.model.layers * self.model.kv_heads
        self.result = {
            "model": {"dtype": "bf16"},
            "prompt": {"tokens": 20, "visual_tokens": 0, "ids": [5] * 20, "media": []},
            "answers": [{"prompt": "What?", "text": "x", "ids": [1, 2], "finish": "length", "logprobs": [-0.5, 0.0]}],
            "kv": {"policy": "snapkv", "when": "prompt", "budget": 0.5, "allocator": "uniform", "options": {}, "tokens_full": 20,
                   "tokens_kept_mean": 10.0, "bytes_full": 20 * entry, "bytes_kept": 10 * entry, "bytes_peak": 12 * entry,
                   "bytes_now": 10 * entry},
            "prefill": {"flops_share": 1.0}, "time": {"load_s": 0.1}, "threads": 2}

    def check(self, forge=None):
        result, kept = copy.deepcopy(self.result), copy.deepcopy(self.kept)
        if forge:
            forge(result, kept)
        checks.check_result(result, self.command, Catalogue, self.model, kept, 1)

    def test_the_right_one_passes(self):
        self.check()

    def test_forgeries_are_seen(self):
        def put(*path):
            *way, key, value = path

            def forge(result, kept):
                place = {"result": result, "kept": kept}
                for step in way:
                    place = place[step]
                place[key] = value
            return forge

        head = list(self.kept["layers"][0][0])
        for forge in (
                put("result", "answers", 0, "logprobs", [-0.5]), put("result", "answers", 0, "logprobs", [-0.5, 0.1]),
                put("result", "answers", 0, "logprobs", [-0.5, float("nan")]), put("result", "answers", 0, "ids", [1, 2, 3]),
                put("result", "answers", 0, "finish", "cancelled"), put("result", "answers", []),
                put("result", "prompt", "tokens", 19), put("result", "prompt", "visual_tokens", 1),
                put("result", "kv", "tokens_kept_mean", 9.0), put("result", "kv", "bytes_peak", 1),
                put("result", "kv", "bytes_kept", 1), put("result", "kv", "policy", "h2o"),
                put("result", "kv", "budget", 0.4), put("result", "kv", "budget_tokens", 9),
                put("result", "kv", "budget_bytes", 100), put("result", "kv", "allocator", "ada"),
                put("result", "prefill", "flops_share", 1.5), put("result", "time", "load_s", -1),
                put("kept", "tokens", 19), put("kept", "layers", self.kept["layers"][1:]),
                put("kept", "layers", 0, 0, head[::-1]), put("kept", "layers", 0, 0, head[:-1] + [20]),
                put("kept", "layers", 0, 0, head[:-1]), put("kept", "layers", 0, 0, head[1:] + [18]),
                put("kept", "layers", 0, 0, [2, 3] + head[2:])):
            with self.subTest(forge=[cell.cell_contents for cell in forge.__closure__]), self.assertRaises(Failure):
                self.check(forge)

    def test_pyramid_and_ada(self):
        def lengths(counts):
            return [[list(range(count)) for count in row] for row in counts]

        def check(allocator, counts, **options):
            kv = {"policy": "snapkv", "budget_tokens": 10, "allocator": allocator, "options": options}
            checks.check_budget(lengths(counts), checks.Budget(kv, Catalogue, 40), [40] * len(counts), False)

        check("pyramid", [[18, 18], [10, 10], [2, 2]])
        check("ada", [[12, 8], [18, 2]])
        for allocator, counts in (("pyramid", [[18, 18], [10, 10], [3, 3]]), ("pyramid", [[18, 17], [10, 11], [2, 2]]),
                                  ("pyramid", [[2, 2], [10, 10], [18, 18]]), ("ada", [[12, 9]]), ("ada", [[19, 1]])):
            with self.subTest(counts=counts), self.assertRaises(Failure):
                check(allocator, counts)

    def test_json_is_strict(self):
        for text in (b"{", b'{"a": NaN}', b'{"a": 1, "a": 2}', b'{"a": "\xff"}', b'{"a": Infinity}'):
            with self.subTest(text=text), self.assertRaises(Failure):
                checks.parse(text, "it")


class Mutations(unittest.TestCase):
    def test_xxh64(self):
        # From the specification's own examples, seed 0.
        self.assertEqual(mutations.xxh64(b""), 0xEF46DB3751D8E999)

    def test_a_rebuilt_pkv_is_the_same_file(self):
        for path in sorted((materials.DATA / "pkv").glob("*.pkv")):
            data = path.read_bytes()
            self.assertEqual(mutations.build_pkv(data[:56], mutations.pkv_sections(data)), data)

    def test_injuries_injure_and_repeat(self):
        data = (materials.DATA / "pkv/full.pkv").read_bytes()
        changed = 0
        for seed in range(100):
            spoiled, _ = mutations.spoil_pkv(random.Random(seed), data)
            self.assertEqual(spoiled, mutations.spoil_pkv(random.Random(seed), data)[0])
            changed += spoiled != data
        self.assertGreater(changed, 90)


if __name__ == "__main__":
    unittest.main()
