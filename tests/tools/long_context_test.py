#!/usr/bin/env python3
"""tools/long_context on texts made here: the benchmark is the same every time and asks what its texts answer, runs are gone on with, figures are right."""
import contextlib
import io
import json
import pathlib
import random
import re
import stat
import subprocess
import sys
import tempfile
import unittest

TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools/long_context"
sys.path.insert(0, str(TOOLS))
import facts  # noqa: E402
import frontier  # noqa: E402
import intervals  # noqa: E402
import make  # noqa: E402
import run  # noqa: E402
import table  # noqa: E402
import texts  # noqa: E402

LENGTHS = [("1k", 1000), ("2k", 2000)]


def prose(name, paragraphs):
    draw = texts.Draw(random.Random(name))
    words = "if the reader of this page would like to know more there are several other pages that may help with it".split()
    said = [" ".join(draw.pick(words) for _ in range(60)) + "." for _ in range(paragraphs)]
    return "\n\n".join(line.replace(" page ", " page\n") for line in said)


def code(name, count):
    body = "".join(f"    value = value * {i} + {name!r}.count('a')\n" for i in range(8))
    return "import os\n\n" + "\n\n".join(f'def {name}_{i}(value):\n    """Adds {i}."""\n{body}    return value' for i in range(count)) + "\n"


def sources():
    return {"licence": [texts.Source("licence", f"L{i}", prose(f"L{i}", 30)) for i in range(3)],
            "manual": [texts.Source("manual", f"M{i}", prose(f"M{i}", 30)) for i in range(3)],
            "module": [texts.Source("module", f"m{i}.py", code(f"m{i}", 40)) for i in range(3)]}


class Benchmark(unittest.TestCase):
    def setUp(self):
        self.records, self.files = make.build(1, LENGTHS, 6, 4, sources())

    def test_the_same_seed_gives_the_same_bytes(self):
        again = make.build(1, LENGTHS, 6, 4, sources())
        self.assertEqual((json.dumps(self.records), self.files), (json.dumps(again[0]), again[1]))
        self.assertNotEqual(self.files, make.build(2, LENGTHS, 6, 4, sources())[1])

    def test_a_length_does_not_depend_on_the_others(self):
        alone, files = make.build(1, LENGTHS[1:], 6, 4, sources())
        self.assertEqual(alone, [one for one in self.records if one["length"] == "2k"])
        self.assertTrue(files.items() <= self.files.items())

    def test_every_task_has_its_questions(self):
        for task, per_text in (("needle", 2), ("several", 2), ("lookup", 2), ("changed", 2), ("summary", 1)):
            self.assertEqual(sum(one["type"] == task for one in self.records), 2 * 6 * per_text, task)
        self.assertEqual(sum(one["type"] == "code" for one in self.records), 2 * 4)

    def test_records_are_what_eval_reads(self):
        self.assertEqual(len({one["id"] for one in self.records}), len(self.records))
        for one in self.records:
            for field in ("id", "type", "length", "prompt", "answer", "text_file"):
                self.assertTrue(isinstance(one[field], str) and one[field].strip(), (one["id"], field))
            self.assertIn(one["text_file"], self.files)
            self.assertEqual("contains" in one, one["type"] in table.RIGHT_OR_WRONG)
            for value in one.get("contains", []):
                self.assertNotIn(value, one["lacks"])
                self.assertNotIn(value, one["prompt"].split())
                self.assertIn(value, one["answer"])

    def test_texts_have_about_the_size_they_should(self):
        for one in self.records:
            size = len(self.files[one["text_file"]])
            self.assertTrue(0.75 * 4.0 * one["tokens"] <= size <= 1.03 * 4.6 * one["tokens"], (one["text_file"], size))

    def test_needles_stand_once_and_the_check_sees_when_not(self):
        make.check(self.records, self.files)
        one = next(one for one in self.records if one["type"] == "needle")
        more = dict(self.files)
        more[one["text_file"]] += f"\n{one['contains'][0]}.\n"
        with self.assertRaisesRegex(texts.Problem, f"{one['contains'][0]}' stands more than once"):
            make.check(self.records, more)
        with self.assertRaisesRegex(texts.Problem, "does not stand in"):
            make.check([dict(one, contains=["1000000"])], self.files)

    def test_what_was_changed_stands_behind_what_it_was(self):
        for one in self.records:
            if one["type"] == "changed":
                text = self.files[one["text_file"]]
                places = [re.search(rf"\b{value}\b", text).start() for value in (one["lacks"][0], one["contains"][0])]
                self.assertLess(places[0], places[1], one["id"])

    def test_needles_are_spread_over_the_texts(self):
        depths = []
        for one in self.records:
            if one["type"] == "needle":
                text = self.files[one["text_file"]]
                depths.append(text.index(one["contains"][0]) / len(text))
        self.assertLess(min(depths), 0.3)
        self.assertGreater(max(depths), 0.7)

    def test_code_stops_where_a_body_begins(self):
        for one in self.records:
            if one["type"] == "code":
                self.assertTrue(self.files[one["text_file"]].endswith('."""\n'), one["id"])
                self.assertTrue(one["answer"].startswith("    value = value * 0"))

    def test_a_text_that_says_a_value_takes_another(self):
        draw = texts.Draw(random.Random(3))
        words = " ".join(facts.WORDS[:20] + facts.ANIMALS[:10] + facts.GOODS[:10])
        for question in facts.Facts(draw, words).questions:
            self.assertFalse(set(question.contains) & set(words.split()))

    def test_passages_share_no_text_before_all_was_used(self):
        whole = [texts.Source("licence", "L", "\n\n".join(f"paragraph {i}\nsecond line {i}" for i in range(100)))]
        passages = texts.Passages(texts.Draw(random.Random(1)), whole)
        seen = [line for _ in range(8) for part in passages.take(250)[0] for line in part.split("\n")]
        self.assertEqual(len(seen), len(set(seen)))
        self.assertEqual(passages.rounds, 1)

    def test_too_little_text_is_one_line(self):
        short = dict(sources(), module=[texts.Source("module", "m.py", code("m", 3))])
        with self.assertRaisesRegex(texts.Problem, "no module of Python's holds a function behind"):
            make.build(1, [("9k", 9000)], 0, 1, short)
        with self.assertRaisesRegex(texts.Problem, "tokens are too few"):
            make.build(1, [("300", 300)], 1, 0, sources())


class CommandLine(unittest.TestCase):
    def make(self, *arguments):
        done = subprocess.run([sys.executable, TOOLS / "make.py", *arguments], capture_output=True, text=True)
        return done.returncode, done.stderr

    def test_wrong_values_end_in_one_line(self):
        for flag, value, says in (("--lengths", "3m", "'3m' is no length"), ("--lengths", "1k,1k", "given twice"), ("--lengths", "100", "out of range"),
                                  ("--documents", "-1", "no count"), ("--seed", "x", "no count")):
            with tempfile.TemporaryDirectory() as folder:
                status, errors = self.make(folder, f"{flag}={value}")
                self.assertNotEqual(status, 0)
                self.assertIn(says, errors)

    def test_nothing_to_ask_is_said(self):
        with tempfile.TemporaryDirectory() as folder:
            status, errors = self.make(folder, "--documents", "0", "--code", "0")
            self.assertEqual((status, errors), (1, "make.py: no question: --documents and --code are both 0\n"))


# Stands for purekv: answers every question of its types under every setting, and counts how often it was started.
PROGRAM = """#!{python}
import json, pathlib, sys
if sys.argv[1] == "bench":
    drops = sys.argv[sys.argv.index("--drop-layers") + 1]
    if drops.startswith("2:"):
        sys.exit("purekv: error: --drop-layers: policy purekv drops from layer 3 on")
    rows = [{{"stage": "prefill", "policy": "full", "seconds_median": 9.0}}, {{"stage": "prefill", "policy": "purekv", "seconds_median": 4.5}}]
    print(json.dumps({{"rows": rows}}))
    sys.exit(0)
flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
out = pathlib.Path(flags["-o"])
with (out.parent / "starts").open("a") as starts:
    starts.write("x")
if "{broken}" and "{broken}" in flags["-m"]:
    sys.exit("purekv: error: a model that cannot be read")
lines, count = [], 0
for line in open(flags["--data"]):
    one = json.loads(line)
    if one["type"] not in flags["--types"].split(",") or one["length"] not in flags["--lengths"].split(","):
        continue
    settings = [("full", 1, "prompt")] + [(p, float(b), w) for w in flags["--when"].split(",") for p in flags["--policies"].split(",")
                                          for b in flags["--budgets"].split(",")]
    for policy, budget, when in settings:
        right = policy in ("full", "snapkv")
        lines.append(json.dumps({{"id": one["id"], "video": one["text_file"], "type": one["type"], "length": one["length"], "policy": policy,
                                  "budget": budget, "when": when, "score": int(right),
                                  "metrics": {{"kl": 0.0 if right else 0.5, "agreement": 1.0 if right else 0.25}}}}) + "\\n")
(out / "results.jsonl").write_text("".join(lines))
run = {{"results": len(lines), "seconds": 60.0, "machine": {{"cpu": "CPU", "cores": 2}}}}
(out / "run.json").write_text(json.dumps({{"complete": True, "settings": {{"data": "d"}}, "runs": [run]}}))
"""


class Runs(unittest.TestCase):
    def setUp(self):
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.folder = pathlib.Path(place.name)
        records, files = make.build(1, LENGTHS, 3, 2, sources())
        make.write(self.folder / "data", records, files, {})
        (self.folder / "models").mkdir()
        for name in ("smollm2", "qwen0.5b"):
            (self.folder / "models" / f"{name}.gguf").write_bytes(b"GGUF")

    def program(self, broken=""):
        path = self.folder / "purekv"
        path.write_text(PROGRAM.format(python=sys.executable, broken=broken))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run_it(self, *more):
        said, errors = io.StringIO(), io.StringIO()
        arguments = ["--data", self.folder / "data", "--model-dir", self.folder / "models", "-o", self.folder / "results",
                     "--program", self.folder / "purekv", "--table", self.folder / "page.md", "--models", "smollm2,qwen0.5b", *more]
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
            status = run.main(list(map(str, arguments)))
        return status, said.getvalue(), errors.getvalue()

    def starts(self):
        return sum(len(path.read_text()) for path in (self.folder / "results").glob("*/starts"))

    def test_dry_run_starts_nothing_and_says_how_long(self):
        status, said, _ = self.run_it("--dry-run", "--policies", "snapkv,random", "--budgets", "0.2", "--when", "prompt")
        self.assertEqual(status, 0)
        # Two lengths, two models, short and long answers; 3 texts of 8 and 1 questions, 2 of code; full and two policies.
        self.assertIn(f"12 runs, {2 * 2 * (24 + 5) * 3} answers; 12 runs left, about ", said)
        self.assertEqual(said.count(" eval "), 12)
        self.assertFalse((self.folder / "results").exists())

    def test_what_is_done_is_not_done_again(self):
        self.program()
        settings = ["--policies", "snapkv,random", "--budgets", "0.2"]
        self.assertEqual(self.run_it(*settings)[0], 0)
        self.assertEqual(self.starts(), 12)
        self.assertEqual(self.run_it(*settings)[0], 0)
        self.assertEqual(self.starts(), 12)
        # More policies run beside what is there, and one table shows both.
        self.assertEqual(self.run_it("--policies", "keydiff", "--budgets", "0.2")[0], 0)
        self.assertEqual(self.starts(), 24)
        page = (self.folder / "page.md").read_text()
        for name in ("`snapkv`", "`random`", "`keydiff`"):
            self.assertIn(name, page)

    def test_a_run_that_fails_is_named_and_the_others_go_on(self):
        self.program(broken="smollm2")
        status, said, _ = self.run_it("--policies", "snapkv,random", "--budgets", "0.2", "--lengths", "1k")
        self.assertEqual(status, 1)
        self.assertEqual(said.count("failed: purekv: error: a model that cannot be read"), 3)
        page = (self.folder / "page.md").read_text()
        self.assertIn("## qwen0.5b", page)
        self.assertNotIn("## smollm2", page)

    def test_what_is_missing_is_one_line(self):
        self.assertIn("purekv: no program; build it", self.run_it()[2])
        self.program()
        (self.folder / "models/qwen0.5b.gguf").unlink()
        self.assertIn("qwen0.5b.gguf: not there; tools/real_models/fetch.py --only qwen0.5b fetches it", self.run_it()[2])
        self.assertIn("--lengths: '9k' is none of 1k, 2k", self.run_it("--lengths", "9k", "--models", "smollm2")[2])

    def frontier(self, *more):
        said = io.StringIO()
        arguments = ["--data", self.folder / "data", "--model-dir", self.folder / "models", "-o", self.folder / "frontier",
                     "--program", self.folder / "purekv", "--models", "qwen0.5b", "--length", "1k", *more]
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
            status = frontier.main(list(map(str, arguments)))
        return status, said.getvalue()

    def test_the_frontier_has_a_row_for_every_choice_and_seconds_for_every_list(self):
        self.program()
        status, page = self.frontier("--drops", "8:0.2,7:0.5+11:0.2")
        self.assertEqual(status, 0)
        rows = [line for line in page.splitlines() if line.startswith("| ") and "chosen by" not in line]
        self.assertEqual(len(rows), 2 * 5 + 2)
        self.assertTrue(rows[0].startswith("| 8:0.2 | purekv: heads below that copy | 0 of "), rows[0])
        self.assertEqual(sum("2.00 (9.0 to 4.5 s)" in row for row in rows), 2 * 5)  # not FastV's: purekv does not drop at layer 2
        # Other settings lie beside it.
        self.assertEqual(self.frontier("--drops", "8:0.2", "--methods", "purekv", "--limit", "1", "--tokens", "0")[0], 0)
        self.assertEqual(len(list((self.folder / "frontier/qwen0.5b").iterdir())), 4 + 1)  # and the program's own file

    def test_seconds_alone_evaluate_nothing(self):
        self.program()
        status, page = self.frontier("--time-only", "--drops", "8:0.2")
        self.assertEqual(status, 0)
        self.assertIn("2.00 (9.0 to 4.5 s)", page)
        self.assertFalse((self.folder / "frontier").exists())

    def test_quick_is_a_part(self):
        quick = run.parse(["--quick"])
        self.assertEqual((quick.models, quick.budgets, quick.limit), (["smollm2", "qwen0.5b"], ["0.2"], 4))
        self.assertNotEqual(quick.table, run.parse([]).table)  # a first look does not replace the page

    def test_the_limit_takes_whole_texts(self):
        questions = run.read_questions(self.folder / "data/questions.jsonl")
        some = run.chosen_questions(questions, ["needle", "lookup"], "1k", 2)
        self.assertEqual(len(some), 2 * 4)
        self.assertEqual(len({one["text_file"] for one in some}), 2)


class Figures(unittest.TestCase):
    def results(self):
        """Two texts; full answers 3 of 4 needles; `random` gets one of those and the one that full has not, `snapkv` two."""
        model = table.ModelResults("m")
        def add(policy, rights, kl, when="prompt"):
            model.add({"complete": True}, [
                table.Answer(f"needle-{i}", "needle", "1k", f"t{i // 2}", policy, 1 if policy == "full" else 0.2, when, right, kl, 1 - kl)
                for i, right in enumerate(rights)])
            model.add({"complete": True}, [table.Answer("summary-0", "summary", "1k", "t0", policy, 1 if policy == "full" else 0.2, when, None,
                                                        kl, 1 - kl)])
        add("full", [1, 1, 1, 0], 0.0)
        add("random", [1, 0, 0, 1], 0.25)
        add("snapkv", [1, 1, 0, 0], 0.5)
        return model

    def test_rights_are_counted_where_full_is_right(self):
        model = self.results()
        self.assertEqual(table.counted(model, table.Setting("random", 0.2, "prompt"), table.RIGHT_OR_WRONG), [1, 3, 1, 1])
        self.assertEqual(table.counted(model, table.Setting("snapkv", 0.2, "prompt"), table.RIGHT_OR_WRONG), [2, 3, 0, 1])
        page = table.page({"m": model})
        self.assertIn("| 1k | 3 of 4 |", page)
        self.assertIn("| `snapkv` | 2 of 3 |", page)

    def test_a_simple_policy_that_wins_is_named(self):
        lines = table.simple_wins(self.results(), "prompt", 0.2)
        self.assertEqual(len(lines), 1)  # not the needles, which snapkv finds
        self.assertIn("KL summary: `random` 0.250, the best that looks at queries, `snapkv`, 0.500; better by 0.250", lines[0])

    def test_intervals_are_those_of_eval(self):
        # tests/eval/metrics_test.cc has these values too.
        found = intervals.bootstrap([(f"t{i}", (i * 3 % 7) / 10) for i in range(10) for _ in range(1 + i % 2)])
        for value, right in zip(found, (0.28, 0.142785714286, 0.441696428571)):
            self.assertAlmostEqual(value, right, places=10)
        mean, low, high = intervals.bootstrap([("a", 1.0), ("a", 1.0), ("b", 0.0)])
        self.assertAlmostEqual(mean, 2 / 3)
        self.assertEqual((low, high), (0.0, 1.0))
        self.assertEqual(intervals.bootstrap([("a", 0.5), ("b", 0.5)]), (0.5, 0.5, 0.5))

    def test_results_of_two_benchmarks_are_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            line = {"id": "needle-0", "video": "t", "type": "needle", "length": "1k", "policy": "full", "budget": 1, "when": "prompt", "score": 1, "metrics": {}}
            for name in ("a", "b"):
                place = pathlib.Path(folder) / "m" / name
                place.mkdir(parents=True)
                (place / "results.jsonl").write_text(json.dumps(line) + "\n")
                (place / "run.json").write_text(json.dumps({"settings": {"data": name}}))
            with self.assertRaisesRegex(table.Problem, "two different benchmarks"):
                table.load(pathlib.Path(folder))
            (place / "results.jsonl").write_text('{"id": 3}\n')
            with self.assertRaisesRegex(table.Problem, "results.jsonl:1: no result of an evaluation"):
                table.load(pathlib.Path(folder))

    def test_words_around_the_tables_stay(self):
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder) / "r/m/a"
            place.mkdir(parents=True)
            line = {"id": "needle-0", "video": "t", "type": "needle", "length": "1k", "policy": "full", "budget": 1, "when": "media", "score": 1, "metrics": {}}
            (place / "results.jsonl").write_text(json.dumps(line) + "\n" + '{"cut sho')
            (place / "run.json").write_text("{}")
            page = pathlib.Path(folder) / "page.md"
            page.write_text(f"Mine.\n\n{table.BEGIN}\nold\n{table.END}\nAlso mine.\n")
            table.write(pathlib.Path(folder) / "r", page)
            text = page.read_text()
            self.assertTrue(text.startswith("Mine.") and text.endswith("Also mine.\n") and "old" not in text and "1 of 1" in text)
            page.write_text("Something else.\n")
            with self.assertRaisesRegex(table.Problem, "without the marks"):
                table.write(pathlib.Path(folder) / "r", page)


if __name__ == "__main__":
    unittest.main()
