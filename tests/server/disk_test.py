#!/usr/bin/env python3
"""What was read outlives the server: prefixes as files, what becomes of damaged ones, and who may have them."""
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import unittest

from serving import CLEAN, MODEL, PROGRAM, VIDEOS, Server, text_part, until, user, video_part

VIDEO = sorted(VIDEOS.glob("short-*.mp4"))[0]
OTHER, THIRD, FOURTH = sorted(VIDEOS.glob("short-*.mp4"))[1:4]
PREFIXES = "/v1/purekv/prefixes"
SMALL = {"purekv": {"policy": "purekv", "budget": 0.2}}


def about(video, question="What moves?"):
    return [user(video_part(video), text_part(question))]


def files(directory):
    return sorted(one.name for one in pathlib.Path(directory).glob("pfx-*"))


class Disk(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)

    def serve(self, *flags):
        server = Server("--cache-dir", self.directory.name, *flags)
        self.addCleanup(server.stop)
        return server

    def ask(self, server, messages, headers=None, **settings):
        answer = server.chat(messages, headers=headers, max_tokens=24, logprobs=True, **settings)
        self.assertEqual(answer.status, 200, answer.body)
        choice = answer.json["choices"][0]
        logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
        return answer.json["usage"]["purekv"], (choice["message"]["content"], logprobs)

    def list(self, server, **headers):
        return server.get(PREFIXES, **headers).json["data"]

    def test_it_is_there_after_a_restart(self):
        server = self.serve()
        made, said = {}, {}
        for name, settings in (("full", {}), ("purekv", SMALL), ("h2o", {"purekv": {"policy": "h2o", "budget": 0.3}}),
                               ("prefill", {"purekv": {"policy": "snapkv", "budget": 0.4, "prefill": {"kind": "st"}}}),
                               ("part", {"mm_processor_kwargs": {"fps": 1, "max_pixels": 20000}})):
            made[name], said[name] = self.ask(server, about(VIDEO), **settings)
            said[name + "2"] = self.ask(server, about(VIDEO, "Which colours are there?"), **settings)[1]
            settings_of = {**settings}
            made[name]["settings"] = settings_of
        self.assertEqual({one["state"] for one in self.list(server)}, {"memory"})
        server.signal()
        self.assertEqual(server.wait(), 0)
        self.assertEqual(len(files(self.directory.name)), 10)
        server = self.serve()
        listed = {one["id"]: one for one in self.list(server)}
        self.assertEqual({one["state"] for one in listed.values()}, {"disk"})
        self.assertEqual(sorted(listed), sorted(one["prefix"] for one in made.values()))
        for name, usage in made.items():
            with self.subTest(name):
                again, text = self.ask(server, about(VIDEO), **usage["settings"])
                self.assertEqual((again["cache"], again["prefix"], text), ("disk", usage["prefix"], said[name]))
                self.assertEqual((again["tokens_kept_mean"], again["media"]), (usage["tokens_kept_mean"], usage["media"]))
                self.assertEqual((again["time"]["media_s"], again["time"]["vision_s"]), (0, 0))
                again, text = self.ask(server, about(VIDEO, "Which colours are there?"), **usage["settings"])
                self.assertEqual((again["cache"], text), ("prefix", said[name + "2"]))
                by_name, text = self.ask(server, "What moves?", purekv={"prefix": usage["prefix"]})
                self.assertEqual((by_name["cache"], text), ("prefix", said[name]))
        path = f"{PREFIXES}/{made['purekv']['prefix']}"
        self.assertTrue(server.get(path + "/frames/0.jpg").body.startswith(b"\xff\xd8\xff"))
        self.assertTrue(server.request("DELETE", path).json["deleted"])
        self.assertEqual(len(files(self.directory.name)), 8)

    def test_what_has_no_room_goes_to_disk(self):
        probe = self.serve()
        size = self.ask(probe, about(VIDEO))[0]["kv_bytes_shared"]
        probe.stop()
        for name in files(self.directory.name):
            os.remove(os.path.join(self.directory.name, name))
        server = self.serve("--cache-memory", str(int(size * 2.4)))  # a prompt of its own takes 2, for a moment
        first, said = self.ask(server, about(VIDEO))
        second, _ = self.ask(server, about(OTHER))
        states = {one["id"]: one["state"] for one in self.list(server)}
        self.assertEqual(states, {first["prefix"]: "disk", second["prefix"]: "memory"})
        again, text = self.ask(server, about(VIDEO))
        self.assertEqual((again["cache"], text), ("disk", said))
        third, _ = self.ask(server, about(THIRD))
        states = {one["id"]: one["state"] for one in self.list(server)}
        self.assertEqual(states, {first["prefix"]: "disk", second["prefix"]: "disk", third["prefix"]: "memory"})
        # Back and forth: what is there already is not written anew.
        times = {name: os.stat(os.path.join(self.directory.name, name)).st_ino for name in files(self.directory.name)}
        self.assertEqual(self.ask(server, about(OTHER))[0]["cache"], "disk")
        self.assertEqual(self.ask(server, about(FOURTH))[0]["cache"], "none")
        self.assertEqual(self.ask(server, about(VIDEO))[0]["cache"], "disk")
        self.assertEqual({name: os.stat(os.path.join(self.directory.name, name)).st_ino for name in times}, times)

    def test_the_disk_has_a_limit(self):
        server = self.serve("--cache-write-through", "--cache-disk", "1500K")
        for i in range(8):
            self.ask(server, [user(video_part(VIDEO), text_part("What?"))], mm_processor_kwargs={"fps": 1, "max_frames": 4 + 2 * i})
        server.stop()
        used = sum(os.stat(os.path.join(self.directory.name, name)).st_size for name in files(self.directory.name))
        self.assertGreater(used, 0)
        self.assertLessEqual(used, 1500 << 10)

    def test_what_is_read_ahead_survives_a_kill(self):
        server = self.serve()
        made = server.post({"model": "demo", "messages": [user(video_part(VIDEO))], **SMALL}, path=PREFIXES).json
        self.assertTrue(until(lambda: len(files(self.directory.name)) == 2))
        _, said = self.ask(server, "What moves?", purekv={"prefix": made["id"]})
        self.ask(server, about(OTHER))  # only in memory
        server.signal(signal.SIGKILL)
        server.wait()
        for name in ("pfx-" + "0" * 24 + ".pkv", "pfx-" + "1" * 24 + ".json.tmp.abcd", "x.tmp"):  # half written
            pathlib.Path(self.directory.name, name).write_bytes(b"x")
        server = self.serve()
        self.assertEqual([(one["id"], one["state"]) for one in self.list(server)], [(made["id"], "disk")])
        self.assertEqual(files(self.directory.name), [made["id"] + ".json", made["id"] + ".pkv"])
        self.assertTrue(pathlib.Path(self.directory.name, "x.tmp").exists())  # nobody's
        self.assertEqual(self.ask(server, "What moves?", purekv={"prefix": made["id"]})[1], said)

    def test_damage_is_found_and_never_served(self):
        server = self.serve("--cache-write-through")
        first = self.ask(server, about(VIDEO), **SMALL)[0]["prefix"]
        second = self.ask(server, about(OTHER), **SMALL)[0]["prefix"]
        third, said = self.ask(server, about(VIDEO))
        server.stop()
        with open(os.path.join(self.directory.name, first + ".pkv"), "r+b") as cache:  # in its entries
            cache.seek(-5000, os.SEEK_END)
            byte = cache.read(1)
            cache.seek(-1, os.SEEK_CUR)
            cache.write(bytes([byte[0] ^ 1]))
        with open(os.path.join(self.directory.name, second + ".json"), "r+") as record:
            text = record.read()
            record.seek(0)
            record.truncate()
            record.write(text[:len(text) // 2])
        server = self.serve()
        self.assertEqual({one["id"] for one in self.list(server)}, {first, third["prefix"]})
        self.assertIn(second, server.stderr())
        usage, _ = self.ask(server, about(VIDEO), **SMALL)
        self.assertEqual(usage["cache"], "none")
        self.assertNotEqual(usage["prefix"], first)
        self.assertIn(first, server.stderr())
        self.assertNotIn(first + ".pkv", files(self.directory.name))
        self.assertEqual(self.ask(server, about(VIDEO))[1], said)

    def test_a_record_of_another_chat_is_not_taken_for_it(self):
        server = self.serve("--cache-write-through")
        first = self.ask(server, about(VIDEO))[0]["prefix"]
        second = self.ask(server, [user(text_part("Look:"), video_part(VIDEO), text_part("What?"))])[0]["prefix"]
        server.stop()
        os.replace(os.path.join(self.directory.name, second + ".pkv"), os.path.join(self.directory.name, first + ".pkv"))
        server = self.serve()
        usage, said = self.ask(server, about(VIDEO))
        self.assertEqual((usage["cache"], said), ("none", self.ask(server, about(VIDEO), purekv={"cache": "off"})[1]))

    def test_keys_are_apart_there_too(self):
        keys = ["--api-key", "a", "--api-key", "b"]
        a, b = {"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}
        server = self.serve(*keys, "--cache-write-through")
        made = self.ask(server, about(VIDEO), a)[0]["prefix"]
        self.ask(server, about(OTHER), a, cache_salt="s")
        server.stop()
        server = self.serve(*keys)
        self.assertEqual(self.list(server, **b), [])
        self.assertEqual(self.ask(server, about(VIDEO), b)[0]["cache"], "none")
        self.assertEqual(self.ask(server, about(VIDEO), a)[0]["prefix"], made)
        self.assertEqual(self.ask(server, about(OTHER), a)[0]["cache"], "none")
        self.assertEqual(self.ask(server, about(OTHER), a, cache_salt="s")[0]["cache"], "disk")
        server.stop()
        for name in files(self.directory.name):
            os.remove(os.path.join(self.directory.name, name))
        server = self.serve(*keys, "--share-cache", "all")
        made = self.ask(server, about(VIDEO), a)[0]["prefix"]
        self.assertEqual(self.ask(server, about(VIDEO), b)[0]["cache"], "prefix")
        self.assertEqual([one["id"] for one in self.list(server, **b)], [made])

    def test_one_server_has_it(self):
        self.serve()
        other = subprocess.run([PROGRAM, "serve", "-m", str(MODEL), "--port", "0", "--cache-dir", self.directory.name], env=CLEAN,
                               capture_output=True, text=True, timeout=60)
        self.assertEqual(other.returncode, 1)
        self.assertIn(self.directory.name, other.stderr)
        self.assertEqual(len(other.stderr.splitlines()), 1)
        for flags in (["--cache-disk", "1G"], ["--cache-write-through"]):
            refused = subprocess.run([PROGRAM, "serve", "-m", str(MODEL), *flags], env=CLEAN, capture_output=True, text=True, timeout=60)
            self.assertEqual(refused.returncode, 2, refused.stderr)

    def test_files_of_ingest_are_taken(self):
        path = os.path.join(self.directory.name, "talk.pkv")
        flags = ["-m", str(MODEL), "--video", str(VIDEO), "--kv-policy", "purekv", "--kv-budget", "0.2"]
        subprocess.run([PROGRAM, "ingest", *flags, "-o", path], env=CLEAN, check=True, capture_output=True)
        server = self.serve()
        made = server.post({"file": "talk.pkv"}, path=PREFIXES)
        self.assertEqual(made.status, 200, made.body)
        self.assertEqual((made.json["policy"], made.json["state"]), ("purekv", "memory"))
        self.assertEqual(server.post({"file": "talk.pkv"}, path=PREFIXES).json["id"], made.json["id"])
        usage, said = self.ask(server, "What moves?", purekv={"prefix": made.json["id"]}, temperature=0)
        self.assertEqual(usage["cache"], "prefix")
        self.assertEqual(said, self.ask(server, about(VIDEO), temperature=0, purekv={**SMALL["purekv"], "cache": "off"})[1])
        asked = subprocess.run([PROGRAM, "ask", "-m", str(MODEL), "--cache", path, "-p", "What moves?", "--temp", "0", "-n", "24"],
                               env=CLEAN, check=True, capture_output=True, text=True).stdout
        self.assertIn(said[0], asked)
        for name in ("missing.pkv", "../talk.pkv", "/etc/passwd", ".pkv", "talk.json", "", 3):
            refused = server.post({"file": name}, path=PREFIXES)
            self.assertEqual(refused.status, 400, refused.body)
            self.assertNotIn(self.directory.name, refused.body.decode())
        pathlib.Path(self.directory.name, "bad.pkv").write_bytes(pathlib.Path(path).read_bytes()[:-1])
        refused = server.post({"file": "bad.pkv"}, path=PREFIXES)
        self.assertEqual((refused.status, refused.error["param"]), (400, "file"), refused.body)
        self.assertNotIn(self.directory.name, refused.body.decode())
        with Server() as without:
            self.assertEqual(without.post({"file": "talk.pkv"}, path=PREFIXES).status, 400)


if __name__ == "__main__":
    unittest.main()
