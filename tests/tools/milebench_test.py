#!/usr/bin/env python3
"""tools/milebench: contexts become texts and images in their order, answers are judged as MileBench does, and scripts/milebench.sh runs from
end to end on tiny data and random weights (PUREKV and RANDOM_MODEL_MAKER name the programs; without them that is left out)."""
import contextlib
import io
import itertools
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools/milebench"
sys.path.insert(0, str(TOOLS))
import check_scores  # noqa: E402
import convert  # noqa: E402
import scores  # noqa: E402
import table  # noqa: E402
import tasks  # noqa: E402
import tiny  # noqa: E402

import intervals  # noqa: E402


def temporary(test):
    folder = tempfile.TemporaryDirectory()
    test.addCleanup(folder.cleanup)
    return pathlib.Path(folder.name)


def call(main, *arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(one) for one in arguments])
    return status, out.getvalue(), err.getvalue()


class Tasks(unittest.TestCase):
    def test_all_tasks_have_their_settings(self):
        self.assertEqual([len(names) for names in tasks.GROUPS.values()], [13, 13, 2, 1])
        known = {name for names in tasks.GROUPS.values() for name in names}
        self.assertEqual(len(known), 29)
        self.assertLessEqual(set(tasks.CSP), known)
        self.assertEqual(tasks.csp_of("ALFRED"), "csp:window=half:cross_ratio=0.5:recent_ratio=0.5")
        self.assertEqual(tasks.csp_of("ActionPrediction"), "csp:window=half:cross_ratio=0:recent_ratio=0.5")
        self.assertEqual(tasks.csp_of("SlideVQA"), "csp:window=half:cross_ratio=0.5:recent_ratio=0.25")
        self.assertEqual(tasks.csp_of("WebQA"), "csp:window=half:cross_ratio=0.9:recent_ratio=0.5")
        self.assertEqual((tasks.group_of("nuscenes"), tasks.group_of("GPR1200"), tasks.group_of("Mine")), ("S", "I", "-"))

    def test_judged_by_name_then_by_type(self):
        kinds = [tasks.kind_of(*one) for one in (("TextNeedleInAHaystack", "open-ended"), ("MMCoQA", "open-ended"), ("IEdit", "open-ended"),
                                                 ("TQA", "multi-choice"), ("TQA", None))]
        self.assertEqual(kinds, ["word", "part", "rouge-l", "choice", None])


class Scores(unittest.TestCase):
    def test_cleaning(self):
        self.assertEqual(scores.clean(" A red,\n\tbig DOG. "), "a red  big dog")
        self.assertEqual(scores.clean("it is 3.5, no. 4."), "it is 3.5 no 4")
        self.assertEqual(scores.clean("well-known/old"), "well known old")
        self.assertEqual(scores.clean("1,000-2,000"), "10002000")
        self.assertEqual(scores.clean("'quoted'"), "quoted")
        self.assertEqual(scores.clean("a." * 34), "a" * 33 + ".a.")

    def test_rouge_l_is_its_formula(self):
        self.assertEqual(scores.rouge_l("the cat sat", "the cat sat"), 1)
        self.assertAlmostEqual(scores.rouge_l("police kill the gunman", "police killed the gunman"), 0.75)
        self.assertAlmostEqual(scores.rouge_l("the gunman kill police", "police killed the gunman"), 0.5)
        self.assertAlmostEqual(scores.rouge_l("a b", "a x y b z q"), 2 * (2 / 2) * (2 / 6) / (2 / 2 + 2 / 6))
        self.assertEqual((scores.rouge_l("", "a"), scores.rouge_l("b", "a")), (0, 0))
        draw = random.Random(3)
        for _ in range(60):  # all subsequences, the longest that is one of both
            a, b = ([draw.choice("xyz") for _ in range(draw.randrange(1, 8))] for _ in range(2))

            def parts(words):
                return {part for size in range(len(words) + 1) for part in itertools.combinations(words, size)}
            found = scores.longest_common(a, b)
            self.assertIn(tuple(found), parts(a) & parts(b))
            self.assertEqual(len(found), max(map(len, parts(a) & parts(b))), (a, b))

    def test_rouge_l_counts_words_once_and_unites_sentences(self):
        self.assertEqual(scores.rouge_l("go go go left", "go left"), 1)
        self.assertAlmostEqual(scores.rouge_l("go up go left", "left go"), 2 * 1 / (3 + 2))
        self.assertEqual(scores.rouge_l("a b.c d", "a c b d"), 1)
        self.assertEqual(scores.rouge_l("a c b d", "a b.c d"), 1)
        self.assertAlmostEqual(scores.rouge_l("c d a b", "a b c d"), 0.5)
        self.assertEqual(scores.rouge_l(" . ", "a"), 0)
        self.assertEqual(scores.longest_common(["a", "b"], ["b", "a"]), ["b"])

    def test_published_answers_are_compared(self):
        outputs = temporary(self)
        for task, files in (("TQA", {"pred_with_extracted": [{"gt_response": "two", "pred_response": said, "choice_list": ["one", "two", "six"],
                                                              "result": right} for said, right in (("b", 1), ("a", 0), ("", 0))],
                                     "eval": {"Accuracy": 1 / 3}}),
                            ("IEdit", {"pred": [{"gt_response": "Go left.", "pred_response": "left"}], "eval": {"Rouge-L f": 2 / 3}})):
            (outputs / "method" / task).mkdir(parents=True)
            for name, content in files.items():
                (outputs / "method" / task / f"{name}.json").write_text(json.dumps(content))
        self.assertEqual(call(check_scores.main, outputs), (0, "2 of 2 lists of answers are judged alike\n", ""))
        path = outputs / "method/TQA/pred_with_extracted.json"
        path.write_text(path.read_text().replace('"result": 0', '"result": 1'))
        (outputs / "method/IEdit/eval.json").write_text('{"Rouge-L f": 0.5}')
        status, out, _ = call(check_scores.main, outputs)
        self.assertEqual(status, 0)
        self.assertIn("method TQA: 0.3333 there, 0.3333 here; 2 answers are judged otherwise, 1 of them empty\n", out)
        self.assertIn("method IEdit: 0.5000 there, 0.6667 here\n", out)
        self.assertTrue(out.endswith("0 of 2 lists of answers are judged alike\n"))
        path.write_text("[{}]")
        status, _, err = call(check_scores.main, outputs)
        self.assertEqual((status, err.count("\n")), (1, 1))
        self.assertEqual(call(check_scores.main, outputs / "method")[0], 1)

    def test_choices(self):
        options = ["Red square", "Blue", "Not blue", "3.5 m"]
        picks = {"b blue": "B", "B": "B", "(a) red square": "A", "It is the red square.": "A", "redsquare": "A", "d. 3.5 m": "D",
                 "not blue": "C", "the red square, not blue": "A", "": "", "xyz": "", "e": "", "C!": "C", "a or d": "AD", "zzz b": "B"}
        for answer, pick in picks.items():
            self.assertEqual(scores.chosen(scores.clean(answer), options), pick, answer)
        many = [f"thing{i}x" for i in range(60)]
        self.assertEqual([scores.letter(i) for i in (0, 25, 26, 51, 52)], ["A", "Z", "AA", "AZ", "BA"])
        self.assertEqual(scores.chosen("thing27x", many), "AB")

    def test_kinds(self):
        question = {"answer": "Red", "judged": "word"}
        self.assertEqual([scores.score(question, said) for said in ("it is red.", "bored", "")], [1, 0, 0])
        question["judged"] = "part"
        self.assertEqual([scores.score(question, said) for said in ("it is red.", "bored", "blue")], [1, 1, 0])
        question["judged"] = "rouge-l"
        self.assertEqual(scores.score(question, "red"), 1)
        choice = {"answer": "two", "judged": "choice", "options": ["one", "two"]}
        self.assertEqual([scores.score(choice, said) for said in ("B", "two", "A", "")], [1, 1, 0, 0])
        with self.assertRaises(ValueError):
            scores.score({"answer": "x", "judged": "?"}, "x")


class Convert(unittest.TestCase):
    def setUp(self):
        self.data = temporary(self)
        (self.data / "TQA/images").mkdir(parents=True)
        for name in ("a.png", "b.JPG", "c.png", "d.txt"):
            (self.data / "TQA/images" / name).write_bytes(b"")
        self.sample = {"sample_id": 1, "task_instruction_id": 0, "response": "two",
                       "task_instance": {"context": "{image#1} or {table#2}?", "images_path": ["a.png", "b.JPG"], "choice_list": ["one", "two"]}}
        self.room = convert.Room(500, 50)

    def write(self, samples, question_type="multi-choice"):
        text = json.dumps({"meta_data": {"question_type": question_type, "task_instruction": ["Look."]}, "data": samples})
        (self.data / "TQA/TQA.json").write_text(text, encoding="utf-8")

    def test_images_stand_where_the_context_names_them(self):
        pieces = convert.pieces_of
        self.assertEqual(pieces("a {image#1} b {table#2}c", 2), ["a ", 0, " b ", 1, "c"])
        self.assertEqual(pieces("{image#2} {image#1}", 2), ["", 1, " ", 0, ""])
        self.assertEqual(pieces("{image#1} x {image#1}", 1), ["", 0, " x [image 1]"])
        self.assertEqual(pieces("which? {image#2}", 3), ["", 0, "\n", 2, "\nwhich? ", 1, ""])
        self.assertEqual(pieces("which?", 2), ["", 0, "\n", 1, "\nwhich?"])
        self.assertEqual(pieces("{image#1}{image#2}then", 2), ["", 0, "\n", 1, "\nthen"])
        self.assertEqual(pieces("{image#1}{image#2}", 2), ["", 0, "\n", 1, ""])
        self.assertEqual(pieces("{image#0} {image#3} {image} {image#1}", 2), ["", 1, "\n{image#0} {image#3} {image} ", 0, ""])

    def test_a_line_has_what_eval_reads(self):
        self.write([self.sample])
        lines, shortened, problems = convert.convert(self.data, "TQA", self.room)
        self.assertEqual((len(lines), shortened, problems), (1, 0, []))
        self.assertEqual(lines[0], {"id": "TQA-1", "type": "TQA", "length": "few", "images": ["TQA/images/a.png", "TQA/images/b.JPG"],
                                    "media_texts": ["Look.\n", " or "], "answer": "two", "judged": "choice", "options": ["one", "two"],
                                    "prompt": "?\nChoice list: \nA. one\nB. two\nYour answer is: "})

    def test_gpr1200_has_no_letters(self):
        self.assertEqual(convert.with_choices("GPR1200", "c", ["x", "y"]), "c\nChoice list: \nx\ny\nYour answer is: ")

    def test_what_does_not_fit_is_cut_from_the_left(self):
        pieces = ["one two ", 0, " three ", 1, " four ", 2, " five"]
        sizes = [convert.estimated_tokens(one) if isinstance(one, str) else 50 for one in pieces]
        for start in range(len(pieces)):
            exact = sum(sizes[start:])
            if exact - 1 - sizes[-1] < 50:
                break
            self.assertEqual(convert.cut(pieces, convert.Room(exact, 50)), pieces[start:])
            self.assertEqual(convert.cut(pieces, convert.Room(exact - 1, 50))[-1], " five")
            self.assertLess(len(convert.cut(pieces, convert.Room(exact - 1, 50))), len(pieces) - start)
        # A last text that is too long alone: its end, and one image.
        kept = convert.cut(["", 0, "word " * 100 + "end"], convert.Room(70, 50))
        self.assertEqual(kept[:2], ["", 0])
        self.assertTrue(kept[2].endswith("word end"))
        self.assertEqual(convert.estimated_tokens(kept[2]), 20)

    def test_the_instruction_stays(self):
        self.sample["task_instance"] = {"context": "".join(f"{i} {{image#{i}}}" for i in range(1, 31)) + " which?",
                                        "images_path": ["a.png"] * 30, "choice_list": ["one", "two"]}
        self.write([self.sample])
        (line,), shortened, _ = convert.convert(self.data, "TQA", self.room)
        self.assertEqual(shortened, 1)
        self.assertEqual(line["length"], "medium")
        self.assertTrue(line["media_texts"][0].startswith("Look.\n"))
        self.assertLess(len(line["images"]), 10)
        self.assertEqual(len(line["images"]), len(line["media_texts"]))

    def refusal(self, change):
        sample = json.loads(json.dumps(self.sample))
        change(sample)
        self.write([sample, {**self.sample, "sample_id": 2}])
        status, _, err = call(convert.main, self.data, self.data / "out", "--tasks", "TQA")
        self.assertEqual((status, err.count("\n")), (1, 1), err)
        status, out, kept = call(convert.main, self.data, self.data / "out", "--tasks", "TQA", "--keep-going")
        self.assertEqual(status, 1)
        self.assertIn("TQA: 1 samples", out)
        self.assertEqual(kept, err.replace("convert.py: ", "convert.py: left out: "))
        return err

    def test_what_is_wrong_is_named_in_one_line(self):
        def instance(key, value):
            return lambda sample: sample["task_instance"].update({key: value})
        where = "TQA.json: data 0 (sample 1): "
        self.assertIn(where + "no such file: ", self.refusal(instance("images_path", ["x.png", "a.png", "y.png"])))
        self.assertIn("x.png (and 1 more)", self.refusal(instance("images_path", ["x.png", "a.png", "y.png"])))
        self.assertIn("d.txt: no image", self.refusal(instance("images_path", ["d.txt"])))
        self.assertIn(where + "images_path: a list", self.refusal(instance("images_path", [])))
        self.assertIn(where + "choice_list: a list", self.refusal(instance("choice_list", [])))
        self.assertIn(where + "context: a text", self.refusal(instance("context", None)))
        self.assertIn("'three' is none of the 2 choices", self.refusal(lambda sample: sample.update(response="three")))
        self.assertIn(where + "response: empty", self.refusal(lambda sample: sample.update(response=" ")))
        for wrong in (1, -1, True, "0", None):
            self.assertIn("task_instruction_id: ", self.refusal(lambda sample, wrong=wrong: sample.update(task_instruction_id=wrong)))
        self.assertIn("task_instance: an object", self.refusal(lambda sample: sample.pop("task_instance")))
        self.assertIn("sample_id: a number", self.refusal(lambda sample: sample.update(sample_id=None)))

    def test_files_that_are_none(self):
        def error(*arguments):
            status, _, err = call(convert.main, self.data, self.data / "out", *arguments)
            self.assertEqual((status, err.count("\n")), (1, 1), err)
            return err
        self.assertIn("no task: ", error())
        self.write([self.sample], "essay")
        self.assertIn("question_type: 'essay'", error())
        self.write([self.sample, self.sample])
        self.assertIn("sample_id: is there twice", error())
        self.write([])
        self.assertIn("data: a list that is not empty", error())
        (self.data / "TQA/TQA.json").write_text("{", encoding="utf-8")
        self.assertIn("TQA.json: no JSON", error())
        self.assertIn("Other.json: no such file; there are TQA", error("--tasks", "Other"))
        self.assertIn("hold no image of 576 tokens", error("--positions", "1000"))

    def test_numbers_are_texts_where_milebench_has_numbers(self):
        self.sample["task_instance"]["choice_list"] = [1, 2]
        self.sample["response"] = 2
        self.write([self.sample])
        (line,), _, _ = convert.convert(self.data, "TQA", self.room)
        self.assertEqual((line["answer"], line["options"]), ("2", ["1", "2"]))

    def test_a_response_is_an_option_but_for_punctuation(self):
        self.sample["response"] = "Two."
        self.write([self.sample])
        (line,), _, _ = convert.convert(self.data, "TQA", self.room)
        self.assertEqual(scores.score(line, "B"), 1)


class Table(unittest.TestCase):
    def setUp(self):
        self.run_dir = temporary(self)
        (self.run_dir / "data").mkdir()

    def put(self, task, judged, answers, more=""):
        """answers: {policy: [text per sample]}; the right one is "yes"."""
        count = max(map(len, answers.values()))
        question = {"judged": judged, "answer": "yes", "options": ["no", "yes"]}
        (self.run_dir / "data" / f"{task}.jsonl").write_text("".join(json.dumps({**question, "id": f"{task}-{i}"}) + "\n" for i in range(count)))
        (self.run_dir / task).mkdir()
        lines = [{"id": f"{task}-{i}", "policy": policy, "answer": text, "metrics": {"kl": i / 4, "agreement": 0.5},
                  "kv": {"bytes_kept": 20, "bytes_full": 100}} for policy, texts in answers.items() for i, text in enumerate(texts)]
        (self.run_dir / task / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + more)

    def rows(self):
        status, out, err = call(table.main, self.run_dir)
        self.assertEqual((status, err), (0, ""))
        return out, {row.split(" | ")[0].strip("| "): [cell.strip(" |") for cell in row.split(" | ")[1:]] for row in out.splitlines() if row[:1] == "|"}

    def test_means_of_what_all_have_answered(self):
        self.put("TQA", "choice", {"full": ["B", "yes", "B", "A"], "csp:window=half": ["B", "A", "A"], "snapkv:window=9": ["B", "B", "B", "B"]}, '{"id": "cut')
        self.put("IEdit", "rouge-l", {"full": ["yes"] * 3, "csp:window=half": ["yes and no"] * 3, "snapkv:window=9": ["no"] * 3})
        out, rows = self.rows()
        self.assertIn("6 samples of 2 tasks, each under 3 policies; **1 samples are not there yet.**", out)
        self.assertEqual(rows["task"], ["samples", "`full`", "`csp`", "`snapkv`"])
        self.assertEqual([cell.split(" ")[0] for cell in rows["TQA"]], ["3", "1.000", "0.333", "1.000"])
        self.assertEqual([cell.split(" ")[0] for cell in rows["IEdit"]], ["3", "1.000", "0.500", "0.000"])
        # The mean of the tasks' means.
        self.assertEqual([cell.split(" ")[0] for cell in rows["**S: semantic**"]], ["6", "1.000", "0.417", "0.500"])
        self.assertEqual(rows["`csp`"][0], "0.200 [0.200, 0.200]")
        self.assertTrue(rows["`csp`"][2].startswith("0.2500 ["))

    def test_tasks_count_alike_in_a_group(self):
        self.put("TQA", "choice", {"full": ["B"] * 9})
        self.put("DocVQA", "choice", {"full": ["A"]})
        self.assertTrue(self.rows()[1]["**S: semantic**"][1].startswith("0.500"))

    def test_what_is_no_run_is_named(self):
        status, _, err = call(table.main, self.run_dir)
        self.assertEqual((status, err.count("\n")), (1, 1))
        self.put("TQA", "choice", {"full": ["B"]})
        (self.run_dir / "TQA/results.jsonl").write_text('{"id": "TQA-7", "policy": "full", "answer": "B", "metrics": {}, "kv": {}}\n')
        status, _, err = call(table.main, self.run_dir)
        self.assertEqual(status, 1)
        self.assertIn("TQA/results.jsonl:1: no result of these questions", err)

    def test_intervals_of_groups(self):
        one = [(i, float(i % 2)) for i in range(40)]
        self.assertEqual(intervals.bootstrap_groups([one]), intervals.bootstrap(one))
        same = [(i, 1.0) for i in range(5)]
        mean, low, high = intervals.bootstrap_groups([one, same])
        alone = intervals.bootstrap(one)
        self.assertAlmostEqual(mean, 0.75)
        self.assertAlmostEqual(low, (alone[1] + 1) / 2)
        self.assertAlmostEqual(high, (alone[2] + 1) / 2)
        # Drawn apart: two groups of the same values vary less than one.
        _, low, high = intervals.bootstrap_groups([one, one])
        self.assertLess(high - low, 0.9 * (alone[2] - alone[1]))


@unittest.skipUnless("PUREKV" in os.environ and "RANDOM_MODEL_MAKER" in os.environ, "PUREKV and RANDOM_MODEL_MAKER name the programs")
class EndToEnd(unittest.TestCase):
    SAMPLES = 2
    POLICIES = ["full", "csp", "snapkv", "h2o", "look-m", "random", "uniform"]

    def setUp(self):
        self.folder = temporary(self)
        status, _, err = call(tiny.main, self.folder, "--samples", self.SAMPLES, "--maker", os.environ["RANDOM_MODEL_MAKER"])
        self.assertEqual((status, err), (0, ""))

    def script(self, **more):
        environment = {**os.environ, "POSITIONS": "600", "IMAGE_TOKENS": "16", "ANSWER_TOKENS": "8", **more}
        return subprocess.run([str(ROOT / "scripts/milebench.sh"), *(str(self.folder / name) for name in ("model", "data", "run"))],
                              env=environment, capture_output=True, text=True)

    def results(self, task):
        return [one for _, one in table.lines_of(self.folder / "run" / task / "results.jsonl")]

    def test_the_whole_of_it(self):
        first = self.script()
        self.assertEqual(first.returncode, 0, first.stderr)
        self.assertIn(f"{7 * self.SAMPLES} samples of 7 tasks, each under 7 policies.", first.stdout)
        self.assertIn("ALFRED: 2 samples, 1 of them cut", first.stdout)
        for group in ("T: temporal", "S: semantic", "N: needle", "I: image retrieval"):
            self.assertIn(f"| **{group}** |", first.stdout)
        for task in ("ActionSequence", "ALFRED", "CLEVR-Change", "GPR1200"):
            answers = {}
            for one in self.results(task):
                answers.setdefault(one["id"], {})[one["policy"].split(":")[0]] = one
            self.assertEqual(len(answers), self.SAMPLES)
            for of_policies in answers.values():
                self.assertEqual(sorted(of_policies), sorted(self.POLICIES))
                full = of_policies["full"]
                for name, one in of_policies.items():
                    # The whole prompt makes an answer's first token, whatever is kept of it.
                    self.assertEqual(one["ids"][0], full["ids"][0], name)
                    self.assertEqual(one["kv"]["tokens_kept_mean"], one["kv"]["tokens_full"] // 5 if name != "full" else one["kv"]["tokens_full"])
        # What a context names alternates with its images: two runs of 16 tokens and the texts around them.
        change = json.loads((self.folder / "run/data/CLEVR-Change.jsonl").read_text().splitlines()[0])
        self.assertEqual(change["media_texts"], ["Say what has changed between the pictures.\n", "\n"])
        for one in self.results("CLEVR-Change"):
            self.assertEqual(one["kv"]["visual_tokens"], 32)
            self.assertGreater(one["kv"]["tokens_full"], 32 + 40)  # the text, behind which nothing stands

        table_of_first = (self.folder / "run/table.md").read_text()
        lines = (self.folder / "run/ALFRED/results.jsonl").read_text().splitlines(keepends=True)
        (self.folder / "run/ALFRED/results.jsonl").write_text("".join(lines[:5]) + lines[5][:20])
        again = self.script()
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertEqual((again.stdout + again.stderr).count("(0 new"), 6)
        self.assertEqual((self.folder / "run/table.md").read_text(), table_of_first)

    def test_an_image_that_is_missing(self):
        (self.folder / "data/ALFRED/images/1_0.png").unlink()
        ended = self.script(TASKS="ALFRED")
        self.assertEqual(ended.returncode, 1)
        self.assertEqual(ended.stderr.count("\n"), 1)  # and nothing ran
        self.assertIn("convert.py: ", ended.stderr)
        self.assertIn("data 1 (sample 1): no such file: ", ended.stderr)
        kept = self.script(TASKS="ALFRED", KEEP_GOING="1")
        self.assertEqual(kept.returncode, 1)
        self.assertIn("left out: ", kept.stderr)
        self.assertIn("1 samples of 1 tasks, each under 7 policies.", kept.stdout)


if __name__ == "__main__":
    unittest.main()
