#!/usr/bin/env python3
"""tools/cache_forms on results made here: only questions that all settings have answered count, the frontier is right, the page keeps the rest."""
import contextlib
import io
import json
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools/cache_forms"))
import table  # noqa: E402


def line(policy, budget, question, share, score, kl):
    return json.dumps({"id": question, "video": question[0], "policy": policy, "budget": budget, "score": score,
                       "metrics": {"kl": kl, "agreement": 1 - kl}, "kv": {"bytes_kept": 1000 * share, "bytes_full": 1000}}) + "\n"


class Table(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.run = pathlib.Path(folder.name)
        self.page = self.run / "page.md"
        lines = []
        for question, loss in (("a1", 0.0), ("a2", 0.2), ("b1", 0.4)):
            lines += [line("full", 1.0, question, 1, 1, 0), line("snapkv", 0.4, question, 0.4, 1, loss / 2),
                      line("snapkv", 0.1, question, 0.1, 0, loss), line("random", 0.1, question, 0.1, 0, 2 * loss + 0.01)]
            for budget in (0.4, 0.1):  # the same answer twice
                lines.append(line("full:keys=int4", budget, question, 0.3, 1, 0.01))
        lines.append(line("full", 1.0, "b2", 1, 1, 0))  # the others have not come to it
        self.lines = lines

    def write(self, more=""):
        (self.run / "results.jsonl").write_text("".join(self.lines) + more, encoding="utf-8")

    def call(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = table.main([str(self.run), "--name", "tiny", *arguments])
        return status, out.getvalue(), err.getvalue()

    def test_rows_are_means_over_common_questions_by_bytes(self):
        self.write('{"id": "cut')
        status, out, _ = self.call()
        self.assertEqual(status, 0)
        self.assertIn("3 questions", out)
        rows = [row.split(" | ") for row in out.splitlines() if row.startswith("| ") and "`" in row]
        self.assertEqual([row[0].strip("| *`") for row in rows], ["full", "snapkv", "full:keys=int4", "random", "snapkv"])
        self.assertEqual([row[2] for row in rows], ["1.000", "0.400", "0.300", "0.100", "0.100"])
        self.assertTrue(rows[1][6].startswith("0.1000 [0.05"), rows[1])
        self.assertEqual(rows[2][1], "1")

    def test_frontier_is_what_nothing_beats(self):
        self.write()
        kept, _ = table.settings(table.read(self.run / "results.jsonl"))
        # 0.1 of the bytes at 0.2; 0.3 at 0.01 beats 0.4 at 0.1; all bytes lose nothing.
        self.assertEqual(table.frontier(kept), {("snapkv", 0.1), ("full:keys=int4", 1.0), ("full", 1.0)})
        self.assertEqual([table.kind(one) for one in ("snapkv", "full:keys=int8", "purekv:keys=int4:values=int4", "kvmerger", "full:attend=quest")],
                         ["eviction", "fewer bits", "both", "merging", "other forms"])

    def test_only_its_section_of_the_page_changes(self):
        self.write()
        around = "# Page\n\n{}\n\n## Other\n\n<!-- other: begin, made by scripts/forms.sh -->\nstale\n<!-- other: end -->\n"
        mark = "<!-- tiny: begin, made by scripts/forms.sh -->\nstale\n<!-- tiny: end -->"
        self.page.write_text(around.format(mark), encoding="utf-8")
        picture = self.run / "tiny.svg"
        self.assertEqual(self.call("--page", str(self.page), "--picture", str(picture))[0], 0)
        first = self.page.read_text(encoding="utf-8")
        self.assertTrue(first.startswith("# Page\n\n<!-- tiny: begin") and first.endswith(around[around.index("\n\n## Other"):]))
        self.assertEqual(first.count("stale"), 1)
        self.call("--page", str(self.page))
        self.assertEqual(self.page.read_text(encoding="utf-8"), first)
        self.assertEqual(picture.read_text(encoding="utf-8").count("<title>"), 4)

    def test_what_cannot_be_read_is_named(self):
        self.write('{"id": "a1"}\n')
        status, _, err = self.call()
        self.assertEqual(status, 1)
        self.assertRegex(err, r"results\.jsonl:20: no result")
        self.write(line("new", 0.4, "c9", 0.4, 1, 0))
        self.assertIn("no question", self.call()[2])
        self.write()
        self.page.write_text("# Page\n", encoding="utf-8")
        self.assertIn("no place for tiny", self.call("--page", str(self.page))[2])


if __name__ == "__main__":
    unittest.main()
