#!/usr/bin/env python3
"""Answers in a crowd: many people at once, in any order, under any settings, some of whom leave, are answered as `purekv ask` answers each alone."""
import json
import random
import threading
import unittest

from serving import VIDEOS, Server, ask, text_part, until, user, video_part

SETTINGS = [([], {}),
            (["--kv-policy", "purekv", "--kv-budget", "0.2", "--kv-when", "context"], {"policy": "purekv", "budget": 0.2}),
            (["--kv-policy", "h2o", "--kv-budget", "0.3", "--kv-when", "context"], {"policy": "h2o", "budget": 0.3}),
            (["--kv-policy", "snapkv", "--kv-tokens", "64", "--kv-when", "prompt"], {"policy": "snapkv", "tokens": 64, "when": "prompt"})]
PEOPLE = 8


class Crowd(unittest.TestCase):
    def test_everybody_is_answered_as_if_alone(self):
        lines = [json.loads(line) for line in (VIDEOS / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
        short = [one for one in lines if one["length"] == "short"]
        asked = [(one, SETTINGS[i % len(SETTINGS)]) for i, one in enumerate(short[::max(1, len(short) // 8)][:8])]
        expected = [ask("--video", str(VIDEOS / one["video"]), "-p", one["prompt"], "-n", "40", *flags)["answers"][0] for one, (flags, _) in asked]
        work = list(range(len(asked))) * 4
        rng = random.Random(1)
        rng.shuffle(work)
        wrong, lock = [], threading.Lock()
        with Server("--max-queue", "100") as server:
            def person():
                while True:
                    with lock:
                        if not work:
                            return
                        i = work.pop()
                        leaves, cache = rng.random() < 0.2, rng.choice(["use", "use", "refresh", "off"])
                    one, (_, own) = asked[i]
                    messages = [user(video_part(VIDEOS / one["video"]), text_part(one["prompt"]))]
                    settings = {"max_tokens": 40, "logprobs": True, "purekv": {**own, "cache": cache}}
                    if leaves:
                        server.start_chat(messages, stream=True, **settings).close()
                        continue
                    answer = server.chat(messages, **settings)
                    choice = answer.json["choices"][0] if answer.status == 200 else None
                    logprobs = choice and [token["logprob"] for token in choice["logprobs"]["content"]]
                    if choice is None or (choice["message"]["content"], logprobs) != (expected[i]["text"], expected[i]["logprobs"]):
                        with lock:
                            wrong.append((one["id"], own, cache, answer.body[:300]))

            people = [threading.Thread(target=person) for _ in range(PEOPLE)]
            for one in people:
                one.start()
            for one in people:
                one.join()
            self.assertEqual(wrong, [])
            # Those who left have left nothing behind.
            descriptors = server.descriptors()
            self.assertTrue(until(lambda: server.descriptors() <= 12), descriptors)


if __name__ == "__main__":
    unittest.main()
