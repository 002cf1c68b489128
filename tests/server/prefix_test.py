#!/usr/bin/env python3
"""A video is read once for all that ask about it: what is shared, with whom, and how it goes away."""
import unittest

from metrics_test import parse
from serving import VIDEOS, Background, Server, data_url, text_part, until, user, video_part

LONG = VIDEOS / "long-00.mp4"
VIDEO = sorted(VIDEOS.glob("short-*.mp4"))[0]
THIRD, FOURTH, FIFTH, SIXTH = sorted(VIDEOS.glob("short-*.mp4"))[2:6]
OTHER = sorted(VIDEOS.glob("short-*.mp4"))[1]
KEYS = {"a": {"Authorization": "Bearer a"}, "b": {"Authorization": "Bearer b"}}


def about(video, question, **own):
    return [user(video_part(video, **own), text_part(question))]


class Prefixes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--api-key", "a", "--api-key", "b")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def ask(self, messages, key="a", **settings):
        answer = self.server.chat(messages, headers=KEYS[key], max_tokens=24, logprobs=True, **settings)
        self.assertEqual(answer.status, 200, answer.body)
        usage = answer.json["usage"]
        choice = answer.json["choices"][0]
        logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
        return usage["prompt_tokens_details"]["cached_tokens"], usage["purekv"], (choice["message"]["content"], logprobs)

    def list(self, key="a"):
        return self.server.get("/v1/purekv/prefixes", **KEYS[key]).json["data"]

    def test_the_second_question_reads_no_video(self):
        settings = {"purekv": {"policy": "purekv", "budget": 0.2}}
        cached, first, _ = self.ask(about(VIDEO, "Describe the video."), **settings)
        self.assertEqual((cached, first["cache"]), (0, "none"))
        cached, second, said = self.ask(about(VIDEO, "What moves?"), **settings)
        self.assertEqual((second["cache"], second["prefix"]), ("prefix", first["prefix"]))
        self.assertGreater(cached, second["tokens_full"] // 2)
        self.assertGreater(second["kv_bytes_shared"], 0)
        _, anew, alone = self.ask(about(VIDEO, "What moves?"), purekv={**settings["purekv"], "cache": "off"})
        self.assertEqual(said, alone)
        self.assertEqual(anew["cache"], "none")
        self.assertNotIn("prefix", anew)
        self.assertEqual(second["media"], anew["media"])
        # A later turn of the same chat, too: what was said since is read, the video is not.
        chat = [*about(VIDEO, "What moves?"), {"role": "assistant", "content": "A square."}, user("Which colour does it have?")]
        cached, _, said = self.ask(chat, **settings)
        self.assertGreater(cached, 0)
        self.assertEqual(said, self.ask(chat, purekv={**settings["purekv"], "cache": "off"})[2])

    def test_only_the_same_is_shared(self):
        self.ask(about(OTHER, "What moves?"))
        self.assertGreater(self.ask(about(OTHER, "What moves?"))[0], 0)
        for what, messages, settings in (
                ("video", about(VIDEO, "What moves?", fps=1), {}), ("rate", about(OTHER, "What moves?", fps=1), {}),
                ("policy", about(OTHER, "What moves?"), {"purekv": {"policy": "snapkv", "budget": 0.5}}),
                ("salt", about(OTHER, "What moves?"), {"cache_salt": "x"}),
                ("refresh", about(OTHER, "What moves?"), {"purekv": {"cache": "refresh"}})):
            with self.subTest(what):
                self.assertEqual(self.ask(messages, **settings)[0], 0)
        with self.subTest("key"):
            self.assertEqual(self.ask(about(OTHER, "What moves?"), key="b")[0], 0)

    def test_they_are_listed_and_deleted_by_whose_they_are(self):
        _, made, _ = self.ask(about(VIDEO, "What?"), key="b", purekv={"policy": "snapkv", "budget": 0.3})
        found = [one for one in self.list("b") if one["id"] == made["prefix"]]
        self.assertEqual(len(found), 1)
        self.assertEqual((found[0]["policy"], found[0]["budget"], found[0]["state"]), ("snapkv", 0.3, "memory"))
        self.assertGreater(found[0]["bytes"], 0)
        self.assertNotIn(made["prefix"], [one["id"] for one in self.list("a")])
        path = "/v1/purekv/prefixes/" + made["prefix"]
        self.assertEqual(self.server.get(path, **KEYS["b"]).json, found[0])
        self.assertEqual(self.server.get(path, **KEYS["a"]).status, 404)
        self.assertEqual(self.server.request("DELETE", path, None, KEYS["a"]).status, 404)
        self.assertTrue(self.server.request("DELETE", path, None, KEYS["b"]).json["deleted"])
        self.assertEqual(self.server.request("DELETE", path, None, KEYS["b"]).status, 404)
        self.assertEqual(self.server.request("DELETE", "/v1/models", None, KEYS["b"]).status, 405)
        self.assertEqual(self.server.request("PUT", path, "{}", KEYS["b"]).status, 405)
        self.assertEqual(self.ask(about(VIDEO, "What?"), key="b", purekv={"policy": "snapkv", "budget": 0.3})[0], 0)

    def test_other_settings_need_no_tower(self):
        question = [user(video_part(THIRD), text_part("What moves?"))]
        first, _ = self.ask(question)[1:]
        for settings in ({"policy": "purekv", "budget": 0.2}, {"policy": "h2o", "budget": 0.3},
                         {"policy": "snapkv", "budget": 0.4, "when": "prompt"}):
            with self.subTest(settings["policy"]):
                _, usage, said = self.ask(question, purekv=settings)
                self.assertEqual(usage["cache"], "embeddings")
                _, anew, alone = self.ask(question, purekv={**settings, "cache": "off"})
                self.assertEqual((said, anew["cache"]), (alone, "none"))
                self.assertEqual(usage["media"], first["media"])
        # Frames of what the tower no longer sees are there to be shown.
        prefix = self.ask(question, purekv={"policy": "purekv", "budget": 0.2})[1]["prefix"]
        frame = f"/v1/purekv/prefixes/{prefix}/frames/1.jpg"
        self.assertEqual(self.server.get(frame, **KEYS["a"]).body, self.server.get(frame.replace(prefix, first["prefix"]), **KEYS["a"]).body)
        # Of several media each is known by itself, wherever it stands; a cache needs all of them.
        self.ask([user(video_part(FOURTH), text_part("What moves?"))])
        both = [user(video_part(FOURTH), text_part("and"), video_part(THIRD), text_part("What moves?"))]
        _, usage, said = self.ask(both)
        self.assertEqual((usage["cache"], said), ("embeddings", self.ask(both, purekv={"cache": "off"})[2]))
        self.assertEqual(self.ask([user(video_part(FIFTH), video_part(THIRD), text_part("What moves?"))])[1]["cache"], "none")
        for what, key, settings in (("key", "b", {}), ("salt", "a", {"cache_salt": "y"}), ("rate", "a", {"mm_processor_kwargs": {"fps": 1}}),
                                    ("refresh", "a", {"purekv": {"cache": "refresh"}})):
            with self.subTest(what):
                self.assertEqual(self.ask(question, key, **settings)[1]["cache"], "none")

    def test_what_is_deleted_is_forgotten(self):
        question = [user(video_part(SIXTH), text_part("What moves?"))]
        prefix = self.ask(question)[1]["prefix"]
        self.ask(question, "b")
        other = {"policy": "purekv", "budget": 0.2}
        self.assertEqual(self.ask(question, purekv={**other, "when": "prompt"})[1]["cache"], "embeddings")
        self.assertEqual(self.server.request("DELETE", f"/v1/purekv/prefixes/{prefix}", headers=KEYS["a"]).status, 200)
        self.assertEqual(self.ask(question, purekv={**other, "when": "prompt"})[1]["cache"], "none")
        self.assertEqual(self.ask(question, "b", purekv={**other, "when": "prompt"})[1]["cache"], "embeddings")  # of another's

    def test_wrong_settings_are_named(self):
        for settings, param in (({"purekv": {"cache": "maybe"}}, "purekv.cache"), ({"cache_salt": 3}, "cache_salt")):
            answer = self.server.chat("Hi", headers=KEYS["a"], **settings)
            self.assertEqual((answer.status, answer.error["param"]), (400, param))


class AtOnce(unittest.TestCase):
    """Who asks about a video that another request decodes or reads now waits for that, and has it, or is next."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def decoded(self):
        found = parse(self.server.get("/metrics").body.decode()).get("purekv_media_total", {})
        return found.get((("kind", "video"), ("result", "ok")), 0)

    def stages(self):
        return [job["stage"] for job in self.server.get("/v1/purekv/status").json["jobs"]]

    def ask(self, question, salt, **own):
        answer = self.server.chat(about(LONG, question), max_tokens=8, cache_salt=salt, temperature=0, purekv=own)
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json["usage"]["purekv"]["cache"], answer.json["choices"][0]["message"]["content"]

    def test_a_video_is_decoded_once_for_all_who_ask_at_once(self):
        before = self.decoded()
        first = Background(lambda: self.ask("What moves?", "once"))
        self.assertTrue(until(lambda: self.stages() != []))
        others = [Background(lambda own=own: self.ask("Which colours?", "once", **own))
                  for own in ({}, {}, {"policy": "purekv", "budget": 0.2}, {"policy": "snapkv", "budget": 0.2, "when": "prompt"})]
        self.assertEqual(first.result()[0], "none")
        caches = [one.result()[0] for one in others]
        self.assertEqual(caches, ["prefix", "prefix", "embeddings", "embeddings"])
        self.assertEqual(self.decoded() - before, 1)
        # Another secret is another video.
        pair = [Background(lambda salt=salt: self.ask("What moves?", salt)) for salt in ("x", "y")]
        self.assertEqual([one.result()[0] for one in pair], ["none", "none"])
        self.assertEqual(self.decoded() - before, 3)

    def test_the_second_is_answered_whatever_becomes_of_the_first(self):
        alone = self.ask("Which colours?", "alone", cache="off")[1]
        for stage in ("media", "vision", "prefill", "decode"):
            with self.subTest(stage):
                caught = False
                for attempt in range(20):
                    salt = f"{stage}{attempt}"
                    first = self.server.start_chat(about(LONG, "Describe the video."), max_tokens=200, cache_salt=salt, temperature=0, frequency_penalty=-2)
                    until(lambda: stage in self.stages() or not self.stages(), 10)
                    second = Background(lambda: self.ask("Which colours?", salt))
                    until(lambda: len(self.stages()) != 1, 5)
                    caught = stage in self.stages()
                    first.close()
                    cache, said = second.result()
                    self.assertEqual(said, alone)
                    if caught:
                        break
                self.assertTrue(caught)
                # What the first had not come to keep the second makes; it is there for a third.
                self.assertIn(cache, {"media": ("none",), "decode": ("prefix",)}.get(stage, ("none", "embeddings", "prefix")))
                self.assertEqual(self.ask("And why?", salt)[0], "prefix")
                self.assertTrue(until(lambda: self.stages() == []))

    def test_who_waits_for_what_cannot_be_read_is_told_so(self):
        broken = [user({"type": "video_url", "video_url": {"url": data_url(LONG)[:-40000]}}, text_part("What moves?"))]
        pair = [Background(lambda: self.server.chat(broken, max_tokens=4)) for _ in range(2)]
        statuses = [one.result().status for one in pair]
        self.assertEqual(statuses[0], statuses[1])


class WithoutMemory(unittest.TestCase):
    def test_nothing_is_kept(self):
        server = Server("--cache-memory", "0")
        try:
            for _ in range(2):
                usage = server.chat(about(VIDEO, "What?"), max_tokens=4).json["usage"]
                self.assertEqual(usage["prompt_tokens_details"]["cached_tokens"], 0)
            self.assertEqual(server.get("/v1/purekv/prefixes").json["data"], [])
        finally:
            server.stop()


if __name__ == "__main__":
    unittest.main()
