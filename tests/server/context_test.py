#!/usr/bin/env python3
"""A long text that is asked about: read once, compressed where it ends, and what is said is what `purekv ask --context` says."""
import pathlib
import subprocess
import tempfile
import unittest

from serving import CLEAN, MODEL, PROGRAM, Server, text_part, user

TEXT = " ".join(f"The {colour} {shape} moves {where}." for where in ("up", "down", "left", "right") * 4
                for colour in ("red", "green", "blue") for shape in ("square", "circle", "triangle"))
QUESTIONS = ("What moves?", "Which colours are there?")
SMALL = {"policy": "purekv", "budget": 0.2}
PREFIXES = "/v1/purekv/prefixes"


def context(text=TEXT):
    return {**text_part(text), "cache_control": {"type": "ephemeral"}}


def command_line(directory, *command):
    path = pathlib.Path(directory) / "context.txt"
    path.write_text(TEXT, encoding="utf-8")
    done = subprocess.run([PROGRAM, *command, "-m", str(MODEL), "--context", str(path), "--kv-policy", "purekv", "--kv-budget", "0.2"],
                          env=CLEAN, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.rstrip("\n")


class Context(unittest.TestCase):
    def ask(self, server, *parts, **settings):
        answer = server.chat([user(*parts)], max_tokens=24, temperature=0, logprobs=True, **settings)
        self.assertEqual(answer.status, 200, answer.body)
        choice = answer.json["choices"][0]
        return answer.json["usage"], (choice["message"]["content"], [one["logprob"] for one in choice["logprobs"]["content"]])

    def test_it_is_read_once_for_all_questions(self):
        with Server() as server, tempfile.TemporaryDirectory() as directory:
            prefixes = set()
            for i, question in enumerate(QUESTIONS):
                usage, said = self.ask(server, context(), text_part(question), purekv=SMALL)
                self.assertEqual(said[0], command_line(directory, "ask", "--kv-when", "context", "-n", "24", "-p", question))
                own = usage["purekv"]
                self.assertEqual(own["cache"], "prefix" if i else "none")
                self.assertEqual(usage["prompt_tokens_details"]["cached_tokens"] > 0, i > 0)
                prefixes.add(own["prefix"])
                # By its name, and without any of what is kept.
                self.assertEqual(self.ask(server, question, purekv={"prefix": own["prefix"]})[1], said)
                self.assertEqual(self.ask(server, context(), text_part(question), purekv={**SMALL, "cache": "off"})[1], said)
            self.assertEqual(len(prefixes), 1)
            listed = server.get(PREFIXES).json["data"]
            self.assertEqual([(one["id"], one["media"], one["policy"]) for one in listed], [(own["prefix"], [], "purekv")])
            self.assertLess(listed[0]["tokens_kept_mean"], 0.3 * listed[0]["tokens_full"])
            # Of another text, or under another budget, nothing is there.
            for text, budget in ((TEXT + " It is over.", 0.2), (TEXT, 0.3)):
                usage, _ = self.ask(server, context(text), text_part("What?"), purekv={**SMALL, "budget": budget})
                self.assertEqual(usage["purekv"]["cache"], "none")

    def test_it_is_read_ahead_and_outlives_the_server(self):
        with tempfile.TemporaryDirectory() as directory:
            with Server("--cache-dir", directory) as server:
                made = server.post({"model": "demo", "messages": [user(context())], "purekv": SMALL}, path=PREFIXES)
                self.assertEqual(made.status, 200, made.body)
                identity = made.json["id"]
                usage, said = self.ask(server, context(), text_part(QUESTIONS[0]), purekv=SMALL)
                self.assertEqual((usage["purekv"]["cache"], usage["purekv"]["prefix"]), ("prefix", identity))
            command_line(directory, "ingest", "-o", str(pathlib.Path(directory) / "text.pkv"))
            with Server("--cache-dir", directory) as server:
                usage, again = self.ask(server, context(), text_part(QUESTIONS[0]), purekv=SMALL)
                self.assertEqual((usage["purekv"]["cache"], usage["purekv"]["prefix"], again), ("disk", identity, said))
                opened = server.post({"file": "text.pkv"}, path=PREFIXES)
                self.assertEqual(opened.status, 200, opened.body)
                self.assertEqual(self.ask(server, QUESTIONS[0], purekv={"prefix": opened.json["id"]})[1], said)

    def test_what_cannot_be_is_refused(self):
        with Server() as server:
            for messages, settings, code, param in (
                    ([user({**text_part("a"), "cache_control": {"type": "eternal"}})], {}, "invalid_value", "messages[0].content[0].cache_control.type"),
                    ([user({**text_part("a"), "cache_control": {"type": "ephemeral", "ttl": "1h"}})], {}, "unsupported_parameter",
                     "messages[0].content[0].cache_control.ttl"),
                    ([{"role": "system", "content": [context("Be brief.")]}, user("What?")], {}, "invalid_value", "messages[0].content[0]"),
                    ([user(context(""), text_part("What?"))], {}, "invalid_value", "messages[0].content[0]"),
                    ([user(context())], {"purekv": {"budget": 0.2, "policy": "purekv", "when": "prompt"}}, "invalid_value", "purekv.when")):
                with self.subTest(param):
                    ahead = "when" in settings.get("purekv", {})
                    answer = server.post({"model": "demo", "messages": messages, **settings}, path=PREFIXES if ahead else "/v1/chat/completions")
                    self.assertEqual((answer.status, answer.error["code"], answer.error["param"]), (400, code, param), answer.body)


if __name__ == "__main__":
    unittest.main()
