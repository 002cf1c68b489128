#!/usr/bin/env python3
"""A session goes on where its last answer ended; whatever does not fit it is read anew."""
import time
import unittest

from serving import VIDEOS, Server, text_part, until, user, video_part

VIDEO, OTHER = sorted(VIDEOS.glob("short-*.mp4"))[:2]
A, B = {"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}
QUESTIONS = ["Describe the video.", "Which shape is there first?", "Which colour does it have?", "Where does it move?"]


class Sessions(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--api-key", "a", "--api-key", "b")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def ask(self, messages, headers=A, **own):
        answer = self.server.chat(messages, headers=headers, max_tokens=40, logprobs=True, temperature=0, purekv=own)
        self.assertEqual(answer.status, 200, answer.body)
        choice = answer.json["choices"][0]
        return answer.json["usage"], choice["message"]["content"], [one["logprob"] for one in choice["logprobs"]["content"]]

    def talk(self, first, session, **own):
        """Usages, texts and log-probabilities of a talk of as many turns as there are questions, with the session and without."""
        chat, turns = [], []
        for question in QUESTIONS:
            chat.append(first(question) if not chat else user(question))
            turns.append((self.ask(chat, session=session, **own), self.ask(chat, cache="off", **own)))
            chat.append({"role": "assistant", "content": turns[-1][0][1]})
        return turns

    def test_later_turns_read_what_is_new(self):
        for policy in ({}, {"policy": "purekv", "budget": 0.3}, {"policy": "snapkv", "budget": 0.5, "when": "prompt"}):
            for what, first in (("video", lambda question: user(video_part(VIDEO), text_part(question))), ("text", user)):
                if what == "text" and policy:
                    continue
                with self.subTest(f"{what} {policy}"):
                    turns = self.talk(first, f"s-{what}-{policy.get('policy')}", **policy)
                    for turn, ((usage, text, logprobs), (anew, expected, alone)) in enumerate(turns):
                        self.assertEqual(usage["purekv"]["cache"] == "session", turn > 0, turn)
                        self.assertEqual(usage["prompt_tokens"], anew["prompt_tokens"])
                        self.assertEqual(usage["prompt_tokens_details"]["image_tokens"], anew["prompt_tokens_details"]["image_tokens"])
                        self.assertEqual(usage["purekv"]["media"], anew["purekv"]["media"])
                        if policy.get("when") != "prompt":  # there the cache is cut behind each turn's own prompt
                            self.assertEqual(text, expected)
                            # Read token by token, or in one go: up to rounding.
                            self.assertLess(max(abs(a - b) for a, b in zip(logprobs, alone)), 0.05)
                        if turn > 0:
                            read = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
                            self.assertLess(read, 40)

    def test_policies_that_evict_at_steps_go_on(self):
        turns = self.talk(lambda question: user(video_part(VIDEO), text_part(question)), "h2o", policy="h2o", budget=0.3)
        self.assertEqual([usage["purekv"]["cache"] for (usage, _, _), _ in turns][1:], ["session"] * 3)
        kept = [usage["purekv"]["kv_bytes_now"] for (usage, _, _), _ in turns]
        self.assertLess(kept[-1], turns[-1][1][0]["purekv"]["kv_bytes_full"])
        # What it shares with others stays what it was.
        again = self.ask([user(video_part(VIDEO), text_part(QUESTIONS[0]))], policy="h2o", budget=0.3)
        self.assertEqual(again[1:], turns[0][1][1:])

    def test_what_does_not_fit_is_read_anew(self):
        question = [user(video_part(OTHER), text_part(QUESTIONS[0]))]
        said = self.ask(question, session="x")[1]
        chat = [*question, {"role": "assistant", "content": said}, user(QUESTIONS[1])]
        for what, messages, own, headers in (
                ("edited", [*question, {"role": "assistant", "content": said + " Yes."}, user(QUESTIONS[1])], {}, A),
                ("other video", [user(video_part(VIDEO), text_part(QUESTIONS[0])), *chat[1:]], {}, A),
                ("other policy", chat, {"policy": "snapkv", "budget": 0.5}, A), ("other key", chat, {}, B), ("none", chat, {"name": "y"}, A)):
            with self.subTest(what):
                self.ask(question, session="x")
                name = own.pop("name", "x")
                usage, text, logprobs = self.ask(messages, headers, session=name, **own)
                self.assertNotEqual(usage["purekv"]["cache"], "session")
                self.assertEqual((text, logprobs), self.ask(messages, headers, cache="off", **own)[1:])
        # Whoever asks the same twice is answered twice: of a session that is in use there is no second.
        self.ask(question, session="x")
        self.assertEqual(self.ask(chat, session="x")[0]["purekv"]["cache"], "session")
        self.assertNotEqual(self.ask(chat, session="x")[0]["purekv"]["cache"], "session")

    def test_what_cannot_be_is_refused(self):
        for settings, param in (({"purekv": {"session": ""}}, "purekv.session"), ({"purekv": {"session": "x" * 129}}, "purekv.session"),
                                ({"purekv": {"session": 3}}, "purekv.session"), ({"purekv": {"session": "x"}, "n": 2}, "n"),
                                ({"purekv": {"session": "x", "cache": "off"}}, "purekv.cache"), ({"purekv": {"profile": True}}, "purekv.profile"),
                                ({"purekv": {"drop_layers": "x"}}, "purekv.drop_layers"),
                                ({"purekv": {"policy": "purekv", "budget": 0.3, "drop_layers": "99:0.5"}}, "purekv.drop_layers")):
            answer = self.server.chat([user(video_part(VIDEO), text_part("What?"))], headers=A, **settings)
            self.assertEqual((answer.status, answer.error["param"]), (400, param), answer.body)

    def test_tokens_are_dropped_on_the_way(self):
        question = [user(video_part(VIDEO), text_part(QUESTIONS[0]))]
        own = {"policy": "purekv", "budget": 0.3}
        plain = self.ask(question, **own)[0]
        dropped = self.ask(question, **own, drop_layers="3:0.4")[0]
        self.assertEqual(self.ask(question, **own, drop_layers="off", profile=False)[0]["purekv"]["prefix"], plain["purekv"]["prefix"])
        self.assertNotEqual(dropped["purekv"]["prefix"], plain["purekv"]["prefix"])
        self.assertLessEqual(dropped["purekv"]["kv_bytes_peak"], plain["purekv"]["kv_bytes_peak"])


class Ends(unittest.TestCase):
    def sessions(self, server):
        return server.get("/v1/purekv/status").json["memory"]["sessions"]

    def test_nobody_goes_on(self):
        with Server("--session-ttl", "0.5") as server:
            server.chat("Hi", max_tokens=4, purekv={"session": "x"})
            self.assertTrue(until(lambda: self.sessions(server) > 0 or time.sleep(0.01)))
            self.assertTrue(until(lambda: self.sessions(server) == 0))
            self.assertEqual(server.get("/v1/purekv/status").json["memory"]["requests"], 0)


if __name__ == "__main__":
    unittest.main()
