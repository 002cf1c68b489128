#!/usr/bin/env python3
"""What is read ahead, what it shows of itself, and what it would have cost."""
import base64
import unittest

from serving import VIDEOS, Server, text_part, user, video_part

VIDEO = sorted(VIDEOS.glob("short-*.mp4"))[0]
OTHER = sorted(VIDEOS.glob("short-*.mp4"))[1]
KEYS = {"a": {"Authorization": "Bearer a"}, "b": {"Authorization": "Bearer b"}}
PREFIXES = "/v1/purekv/prefixes"


class Ahead(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--api-key", "a", "--api-key", "b")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def read(self, messages, key="a", **settings):
        return self.server.post({"model": "demo", "messages": messages, **settings}, KEYS[key], PREFIXES)

    def cost(self, messages, **settings):
        return self.server.post({"model": "demo", "messages": messages, **settings}, KEYS["a"], "/v1/purekv/cost")

    def ask(self, messages, key="a", **settings):
        answer = self.server.chat(messages, headers=KEYS[key], max_tokens=24, logprobs=True, **settings)
        self.assertEqual(answer.status, 200, answer.body)
        choice = answer.json["choices"][0]
        return answer.json["usage"], (choice["message"]["content"], [one["logprob"] for one in choice["logprobs"]["content"]])

    def test_a_video_is_read_ahead_and_asked_about_by_name(self):
        settings = {"purekv": {"policy": "purekv", "budget": 0.2}}
        made = self.read([user(video_part(VIDEO))], **settings)
        self.assertEqual(made.status, 200, made.body)
        prefix = made.json
        self.assertEqual((prefix["object"], prefix["policy"], prefix["budget"], prefix["users"]), ("purekv.prefix", "purekv", 0.2, 0))
        self.assertLess(prefix["tokens_kept_mean"], prefix["tokens_full"] * 0.3)
        # The same by name, by the video itself, and without any of it.
        by_name, said = self.ask("What moves?", purekv={"prefix": prefix["id"]})
        self.assertEqual(by_name["purekv"]["prefix"], prefix["id"])
        self.assertGreater(by_name["prompt_tokens_details"]["cached_tokens"], 0)
        self.assertEqual((by_name["purekv"]["policy"], by_name["purekv"]["budget"]), ("purekv", 0.2))
        question = [user(video_part(VIDEO), text_part("What moves?"))]
        by_video, again = self.ask(question, **settings)
        self.assertEqual((by_video["purekv"]["prefix"], again), (prefix["id"], said))
        anew, alone = self.ask(question, purekv={**settings["purekv"], "cache": "off"})
        self.assertEqual((alone, anew["prompt_tokens"]), (said, by_name["prompt_tokens"]))
        # Later turns.
        later = [{"role": "assistant", "content": said[0]}, user("And which colour has it?")]
        _, named = self.ask([user("What moves?"), *later], purekv={"prefix": prefix["id"]})
        self.assertEqual(named, self.ask([*question, *later], purekv={**settings["purekv"], "cache": "off"})[1])
        # Reading it ahead once more reads nothing.
        self.assertEqual(self.read([user(video_part(VIDEO))], **settings).json["id"], prefix["id"])

    def test_a_text_is_read_ahead(self):
        made = self.read([user("red " * 700)])
        self.assertEqual(made.status, 200, made.body)
        usage, said = self.ask("What?", purekv={"prefix": made.json["id"]})
        self.assertGreaterEqual(usage["prompt_tokens_details"]["cached_tokens"], 512)
        self.assertEqual(said, self.ask([user(text_part("red " * 700), text_part("What?"))], purekv={"cache": "off"})[1])
        for settings, param in (({"purekv": {"policy": "snapkv", "budget": 0.5}}, "purekv.policy"), ({}, None)):
            refused = self.read([user("short")], **settings)
            self.assertEqual((refused.status, refused.error["param"]), (400, param), refused.body)

    def test_what_cannot_be_is_refused(self):
        prefix = self.read([user(video_part(VIDEO))]).json["id"]
        for messages, settings, status, param in (
                ([user(video_part(OTHER))], {}, 400, "messages[0].content[0].video_url.url"),
                ([{"role": "system", "content": "Be brief."}, user("What?")], {}, 400, "messages[0].role"),
                ([user(text_part("Look. "), text_part("<|video_pad|>"))], {}, 400, "messages[0].content[1]"),
                ([user("What?"), {"role": "assistant", "content": "A dot."}, user("<|video_pad|>")], {}, 400, "messages[2].content[0]"),
                ("What?", {"policy": "snapkv", "budget": 0.5}, 400, "purekv.prefix"),
                ("What?", {"cache": "off"}, 400, "purekv.cache")):
            with self.subTest(param):
                answer = self.server.chat(messages, headers=KEYS["a"], purekv={"prefix": prefix, **settings})
                self.assertEqual((answer.status, answer.error["param"]), (status, param), answer.body)
        kwargs = self.server.chat("What?", headers=KEYS["a"], purekv={"prefix": prefix}, mm_processor_kwargs={"fps": 1})
        self.assertEqual((kwargs.status, kwargs.error["param"]), (400, "mm_processor_kwargs"))
        # Another key has none of it, nor has who does not know the salt.
        for key, settings in (("b", {}), ("a", {"cache_salt": "x"})):
            answer = self.server.chat("What?", headers=KEYS[key], purekv={"prefix": prefix}, **settings)
            self.assertEqual((answer.status, answer.error["param"]), (404, "purekv.prefix"))
        for settings, param in (({"purekv": {"when": "prompt", "policy": "snapkv", "budget": 0.5}}, "purekv.when"),
                                ({"purekv": {"cache": "off"}}, "purekv.cache"), ({"stream": True}, "stream")):
            answer = self.read([user(video_part(VIDEO))], **settings)
            self.assertEqual((answer.status, answer.error["param"]), (400, param), answer.body)
        for path in ("/kept/", "/frames", "/frames/x.jpg", "/frames/-1.jpg", "/frames/9999.jpg", "/frames/0.png", "/frames/0.jpg/"):
            self.assertEqual(self.server.get(f"{PREFIXES}/{prefix}{path}", **KEYS["a"]).status, 404, path)
        self.assertEqual(self.server.get(f"{PREFIXES}/{prefix}/kept", **KEYS["b"]).status, 404)
        self.assertEqual(self.server.request("DELETE", f"{PREFIXES}/{prefix}/kept", None, KEYS["a"]).status, 405)

    def test_what_was_kept_shows(self):
        prefix = self.read([user(video_part(VIDEO))], purekv={"policy": "purekv", "budget": 0.2}).json
        path = f"{PREFIXES}/{prefix['id']}"
        kept = self.server.get(path + "/kept", **KEYS["a"]).json
        tokens = sum(t * h * w for t, h, w in kept["grids"])
        self.assertEqual(kept["visual_tokens"], tokens)
        self.assertEqual([len(layer) for layer in kept["counts"]], [kept["kv_heads"]] * kept["layers"])
        mean = sum(map(sum, kept["counts"])) / kept["layers"] / kept["kv_heads"]
        self.assertAlmostEqual(mean, prefix["tokens_kept_mean"])
        size = (tokens + 7) // 8
        sets = base64.b64decode(kept["kept"])
        self.assertEqual(len(sets), size * kept["layers"] * kept["kv_heads"])
        shares = []
        for i, count in enumerate(sum(kept["counts"], [])):
            visual = int.from_bytes(sets[i * size:(i + 1) * size], "little").bit_count()
            self.assertLessEqual(visual, count)
            self.assertGreater(visual, 0)
            shares.append(visual / tokens)
        self.assertLess(sum(shares) / len(shares), 0.3)
        frames = [self.server.get(f"{path}/frames/{i}.jpg", **KEYS["a"]) for i in range(kept["grids"][0][0] + 1)]
        self.assertEqual([one.status for one in frames], [200] * (len(frames) - 1) + [404])
        self.assertTrue(all(one.body.startswith(b"\xff\xd8\xff") for one in frames[:-1]))
        self.assertGreater(len({one.body for one in frames[:-1]}), 1)
        # Under full all is there.
        whole = self.read([user(video_part(VIDEO))]).json["id"]
        bits = base64.b64decode(self.server.get(f"{PREFIXES}/{whole}/kept", **KEYS["a"]).json["kept"])
        self.assertEqual(int.from_bytes(bits, "little").bit_count(), tokens * kept["layers"] * kept["kv_heads"])

    def test_costs_are_told_before(self):
        question = [user(video_part(VIDEO), text_part("What moves?"))]
        for policy, budget in (("full", 1), ("purekv", 0.2), ("snapkv", 0.5), ("h2o", 0.35)):
            own = {"policy": policy} if policy == "full" else {"policy": policy, "budget": budget}
            told = self.cost(question, purekv=own)
            self.assertEqual(told.status, 200, told.body)
            usage, _ = self.ask(question, purekv={**own, "cache": "off"})
            self.assertEqual(told.json["prompt_tokens"], usage["prompt_tokens"])
            self.assertEqual(told.json["visual_tokens"], usage["prompt_tokens_details"]["image_tokens"])
            mine = [one for one in told.json["kept"] if one["budget"] == budget]
            self.assertEqual(len(mine), 1)
            self.assertTrue(mine[0]["fits"])
            self.assertEqual(sorted(told.json["kept"], key=lambda one: one["budget"]), told.json["kept"])
            # What really is allocated; rooms grow a sixteenth ahead.
            for says, is_ in ((mine[0]["kv_bytes"], usage["purekv"]["kv_bytes_kept"]), (mine[0]["peak_bytes"], usage["purekv"]["kv_bytes_peak"])):
                self.assertLess(abs(says / is_ - 1), 0.1, (policy, mine[0], usage["purekv"]))
        self.assertGreater(told.json["seconds"], 0)
        self.assertEqual(self.cost([user("Hi")]).json["visual_tokens"], 0)
        bad = self.cost([user({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}})])
        self.assertEqual(bad.error["code"], "invalid_media")
        made = self.read([user(video_part(VIDEO))]).json["id"]
        bad = self.cost([user("What moves?")], purekv={"prefix": made})
        self.assertEqual((bad.status, bad.error["param"]), (400, "purekv.prefix"))


class Little(unittest.TestCase):
    def test_what_is_said_to_fit_is_taken(self):
        told = set()
        for memory in range(600, 4200, 300):
            with Server("--cache-memory", f"{memory}K") as server:
                body = {"model": "demo", "messages": [user(video_part(VIDEO), text_part("What?"))], "max_tokens": 8, "purekv": {"policy": "full", "cache": "off"}}
                fits = server.post(body, path="/v1/purekv/cost").json["kept"][-1]["fits"]
                self.assertEqual(server.post(body).status, 200 if fits else 400, memory)
                told.add(fits)
        self.assertEqual(told, {False, True})

    def test_what_does_not_fit_is_said(self):
        with Server("--cache-memory", "200K") as server:
            body = {"model": "demo", "messages": [user(video_part(VIDEO))]}
            self.assertFalse(server.post(body, path="/v1/purekv/cost").json["kept"][-1]["fits"])
            answer = server.post(body, path=PREFIXES)
            self.assertEqual((answer.status, answer.error["code"]), (400, "kv_budget_exceeded"), answer.body)


if __name__ == "__main__":
    unittest.main()
