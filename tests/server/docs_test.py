#!/usr/bin/env python3
"""docs/server.md: every command in it runs, and its flags are those of --help."""
import re
import shlex
import subprocess
import sys
import unittest

from serving import CLEAN, PROGRAM, ROOT, Server

PAGE = (ROOT / "docs/server.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"
COMMAND = "build/release/bin/purekv serve -m models/demo"


class Docs(unittest.TestCase):
    def test_every_example_runs_in_its_order(self):
        blocks = re.findall(r"```(sh|python)\n(.*?)```", PAGE, re.DOTALL)
        server, ran = None, 0
        try:
            for language, text in blocks:
                if text.startswith(COMMAND):
                    if server:
                        server.stop()
                    server = Server(*[flag if "models/" not in flag else str(ROOT / flag)
                                      for flag in shlex.split(text[len(COMMAND):])])
                    continue
                here = text.replace(ADDRESS, f"http://127.0.0.1:{server.port}")
                self.assertNotEqual(here, text, text)
                if language == "python":
                    try:
                        import openai  # noqa: F401
                    except ImportError:
                        compile(here, "docs/server.md", "exec")
                        print("no openai package: its example is only compiled")
                        continue
                    command = [sys.executable, "-c", here]
                else:
                    command = ["bash", "-euo", "pipefail", "-c", here]
                done = subprocess.run(command, cwd=ROOT, env=CLEAN, capture_output=True, text=True, timeout=60, check=False)
                self.assertEqual(done.returncode, 0, text + done.stdout + done.stderr)
                self.assertTrue(done.stdout, text)
                ran += 1
        finally:
            if server:
                server.stop()
        self.assertGreaterEqual(ran, 5)

    def test_flags_are_those_of_the_help(self):
        text = subprocess.run([PROGRAM, "serve", "--help"], env=CLEAN, capture_output=True, text=True, timeout=20, check=True).stdout
        offered = set(re.findall(r"^ +(?:-\w,)?(--[a-z-]+)", text, re.MULTILINE))
        told = set(re.findall(r"`(--[a-z-]+)", PAGE))
        own = {flag for flag in offered if not flag.startswith(("--kv-", "--prefill", "--help"))} - {"--model", "--threads"}
        self.assertGreater(len(own), 20)
        self.assertEqual({flag for flag in told if not flag.startswith(("--kv-", "--prefill"))}, own)


if __name__ == "__main__":
    unittest.main()
