#!/usr/bin/env python3
"""Answers over HTTP are those of `purekv ask`, whole or streamed; forms of requests, answers and errors."""
import base64
import json
import os
import pathlib
import struct
import tempfile
import time
import unittest
import zlib

from serving import MODEL, ROOT, VIDEOS, Server, ask, data_url, text_part, until, user, video_part


def questions(count):
    lines = (VIDEOS / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    short = [one for one in found if one["length"] != "long"]
    return short[::len(short) // count - 1][:count]  # of all kinds: there are a few about each video


# How the command line and a request say the same.
SETTINGS = [([], {}),
            (["--kv-policy", "purekv", "--kv-budget", "0.2", "--kv-when", "context"], {"policy": "purekv", "budget": 0.2}),
            (["--kv-policy", "snapkv", "--kv-tokens", "64", "--kv-when", "prompt", "--kv-option", "window=8"],
             {"policy": "snapkv", "tokens": 64, "when": "prompt", "options": {"window": 8}}),
            (["--prefill", "st", "--kv-when", "context"], {"prefill": {"kind": "st"}})]


class AsTheCommandLine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def test_a_dozen_questions_are_answered_as_on_the_command_line(self):
        for i, one in enumerate(questions(12)):
            flags, own = SETTINGS[i % len(SETTINGS)]
            video = VIDEOS / one["video"]
            expected = ask("--video", str(video), "-p", one["prompt"], "-n", "48", *flags)
            answer = expected["answers"][0]
            settings = {"max_tokens": 48, "logprobs": True, "purekv": own}
            with self.subTest(one["id"], flags=flags):
                whole = self.server.chat([user(video_part(video), text_part(one["prompt"]))], **settings)
                self.assertEqual(whole.status, 200, whole.body)
                choice = whole.json["choices"][0]
                self.assertEqual(choice["message"]["content"], answer["text"])
                self.assertEqual(choice["finish_reason"], answer["finish"])
                self.assertEqual([token["logprob"] for token in choice["logprobs"]["content"]], answer["logprobs"])
                usage = whole.json["usage"]
                self.assertEqual(usage["prompt_tokens"], expected["prompt"]["tokens"])
                self.assertEqual(usage["completion_tokens"], len(answer["ids"]))
                self.assertEqual(usage["prompt_tokens_details"]["image_tokens"], expected["prompt"]["visual_tokens"])
                kept = usage["purekv"]
                self.assertEqual(kept["tokens_kept_mean"], expected["kv"]["tokens_kept_mean"])
                # What stands behind a prefix that is kept for others lies apart: a page more for each head.
                self.assertAlmostEqual(kept["kv_bytes_kept"] / expected["kv"]["bytes_kept"], 1, delta=0.03)
                self.assertEqual(kept["media"][0]["frames"], expected["prompt"]["media"][0]["frames"])
                streamed = self.server.chat([user(video_part(video), text_part(one["prompt"]))], stream=True,
                                            stream_options={"include_usage": True}, **settings)
                self.check_stream(streamed, answer, usage)

    def test_settings_of_the_server_are_those_of_the_command_line(self):
        video, question = VIDEOS / "short-03.mp4", "Describe the video."
        flags = ["--profile", str(MODEL / "profile.json"), "--prefill", "st"]
        expected = ask("--video", str(video), "-p", question, "-n", "48", "--kv-when", "context", *flags)
        with Server(*flags) as server:
            answer = server.chat([user(video_part(video), text_part(question))], max_tokens=48, logprobs=True).json
            choice, kept = answer["choices"][0], answer["usage"]["purekv"]
            self.assertEqual([token["logprob"] for token in choice["logprobs"]["content"]], expected["answers"][0]["logprobs"])
            self.assertEqual((kept["policy"], kept["budget"], kept["prefill"]), (expected["kv"]["policy"], expected["kv"]["budget"], "st"))
            self.assertEqual(kept["tokens_kept_mean"], expected["kv"]["tokens_kept_mean"])
            # A text has nothing to be sparse over.
            self.assertEqual(server.chat("a", max_tokens=1).json["usage"]["purekv"]["prefill"], "dense")

    def check_stream(self, streamed, answer, usage):
        self.assertEqual(streamed.headers["content-type"], "text/event-stream")
        self.assertEqual(streamed.headers["cache-control"], "no-cache")
        events = streamed.events()
        self.assertEqual(events.pop(), "[DONE]")
        last = events.pop()
        self.assertEqual(last["choices"], [])
        counts = ("prompt_tokens", "completion_tokens", "total_tokens")
        self.assertEqual([last["usage"][key] for key in counts], [usage[key] for key in counts])
        choices = [event["choices"][0] for event in events]
        for choice in choices:
            self.assertEqual(set(choice), {"index", "delta", "logprobs", "finish_reason"})
        self.assertEqual(choices[0]["delta"], {"role": "assistant", "content": ""})
        self.assertEqual(choices[-1]["delta"], {})
        self.assertEqual([choice["finish_reason"] for choice in choices], [None] * (len(choices) - 1) + [answer["finish"]])
        self.assertEqual("".join(choice["delta"].get("content", "") for choice in choices), answer["text"])
        tokens = [token for choice in choices if choice["logprobs"] for token in choice["logprobs"]["content"]]
        self.assertEqual([token["logprob"] for token in tokens], answer["logprobs"])
        self.assertEqual(len({event["id"] for event in events}), 1)


class Chat(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.media = pathlib.Path(cls.folder.name) / "media"
        cls.media.mkdir()
        cls.server = Server("--allowed-local-media-path", str(cls.media), "--max-media-bytes", "4M", "--max-frames", "32",
                            "--limit-mm-per-prompt", "image=2,video=1")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.folder.cleanup()

    def refused(self, answer, status, code, param=None):
        self.assertEqual(answer.status, status, answer.body)
        self.assertEqual(answer.error["code"], code, answer.error)
        self.assertEqual(answer.error["param"], param, answer.error)
        self.assertNotIn("\n", answer.error["message"])
        self.assertNotIn("--", answer.error["message"])  # clients know no flags
        self.assertEqual(set(answer.error), {"message", "type", "param", "code"})

    def test_a_history_is_its_turns(self):
        video, first, second = VIDEOS / "short-03.mp4", "Describe the video.", "Which shape does the yellow object have?"
        answers = ask("--video", str(video), "-p", first, "-p", second, "-n", "96")["answers"]
        history = [user(video_part(video), text_part(first)), {"role": "assistant", "content": answers[0]["text"], "refusal": None},
                   user(second)]
        self.assertEqual(self.server.chat(history, max_tokens=96).json["choices"][0]["message"]["content"], answers[1]["text"])

    def test_the_same_request_has_the_same_answer_whatever_came_before(self):
        settings = {"temperature": 1.5, "seed": 5, "max_tokens": 20, "n": 3, "top_p": 0.9}
        first = [one["message"]["content"] for one in self.server.chat("A red", **settings).json["choices"]]
        self.assertEqual(len(set(first)), 3, first)
        self.server.chat("something else", max_tokens=3)
        again = [one["message"]["content"] for one in self.server.chat("A red", **settings).json["choices"]]
        self.assertEqual(first, again)
        # Answer i is drawn with seed + i.
        alone = self.server.chat("A red", **{**settings, "n": 1, "seed": 6}).json["choices"][0]["message"]["content"]
        self.assertEqual(alone, first[1])
        streamed = self.server.chat("A red", stream=True, **settings).events()[:-1]
        texts = ["", "", ""]
        for choice in (event["choices"][0] for event in streamed):
            texts[choice["index"]] += choice["delta"].get("content", "")
        self.assertEqual(texts, first)
        # What has been generated so far is of all of them, which grow side by side: a token at least for each piece.
        streamed = self.server.chat("A red", stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}, **settings).events()[:-1]
        pieces, before = 0, 0
        for event in streamed[3:]:  # behind the roles
            pieces += sum(bool(choice["delta"].get("content")) for choice in event["choices"])
            tokens = event["usage"]["completion_tokens"]
            self.assertGreaterEqual(tokens, max(pieces, before))
            before = tokens
        self.assertGreater(pieces, 10)

    def test_stops_lengths_and_penalties(self):
        message = [user(video_part(VIDEOS / "short-03.mp4"), text_part("Describe the video."))]
        whole = self.server.chat(message, max_tokens=96).json["choices"][0]["message"]["content"]
        stop = whole[30:41]
        for settings in ({"stop": stop}, {"stop": [whole[50:60], stop]}):
            for stream in (False, True):
                answer = self.server.chat(message, max_tokens=96, stream=stream, **settings)
                if stream:
                    text = "".join(e["choices"][0]["delta"].get("content", "") for e in answer.events()[:-1])
                    finish = answer.events()[-2]["choices"][0]["finish_reason"]
                else:
                    text, finish = answer.json["choices"][0]["message"]["content"], answer.json["choices"][0]["finish_reason"]
                self.assertEqual((text, finish), (whole[:whole.index(stop)], "stop"))
        self.assertEqual(ask("--video", str(VIDEOS / "short-03.mp4"), "-p", "Describe the video.", "-n", "96", "--stop", stop)
                         ["answers"][0]["text"], whole[:whole.index(stop)])
        short = self.server.chat(message, max_completion_tokens=4).json
        self.assertEqual((short["choices"][0]["finish_reason"], short["usage"]["completion_tokens"]), ("length", 4))
        penalised = self.server.chat(message, max_tokens=96, presence_penalty=2, frequency_penalty=2).json
        expected = ask("--video", str(VIDEOS / "short-03.mp4"), "-p", "Describe the video.", "-n", "96",
                       "--presence-penalty", "2", "--frequency-penalty", "2")["answers"][0]["text"]
        self.assertEqual(penalised["choices"][0]["message"]["content"], expected)
        self.assertNotEqual(expected, whole)
        top = self.server.chat(message, max_tokens=3, logprobs=True, top_logprobs=2).json["choices"][0]["logprobs"]["content"]
        for token in top:
            self.assertEqual(len(token["top_logprobs"]), 2)
            self.assertEqual(token["top_logprobs"][0]["token"], token["token"])
            self.assertEqual(bytes(token["bytes"]).decode(), token["token"])

    def test_progress_is_told_to_who_asks(self):
        events = self.server.chat([user(video_part(VIDEOS / "medium-01.mp4"), text_part("What?"))], max_tokens=2, stream=True,
                                  purekv={"progress": True}).events()
        told = [event["purekv"] for event in events if event != "[DONE]" and not event["choices"]]
        self.assertTrue(any(one["stage"] == "prefill" and one["done"] == one["total"] for one in told), told)

    def test_models(self):
        listed = self.server.get("/v1/models").json
        self.assertEqual([one["id"] for one in listed["data"]], ["demo"])
        self.assertEqual(self.server.get("/v1/models/demo").json, listed["data"][0])
        self.assertEqual(self.server.get("/v1/models/d%65mo").status, 200)
        self.refused(self.server.get("/v1/models/other"), 404, "model_not_found", "model")
        self.refused(self.server.post({"model": "other", "messages": [user("a")]}), 404, "model_not_found", "model")
        self.assertEqual(self.server.get("/health", **{"X-Request-Id": "mine-1"}).headers["x-request-id"], "mine-1")
        made = self.server.get("/health", **{"X-Request-Id": "not \u00a7 mine"}).headers["x-request-id"]
        self.assertTrue(made.startswith("req-"), made)

    def test_what_is_wrong_is_named(self):
        over = {"policy": "purekv", "budget": 0.2}
        cases = [({"temperature": 2.5}, "invalid_value", "temperature"), ({"temperature": "1"}, "invalid_value", "temperature"),
                 ({"top_p": 0}, "invalid_value", "top_p"), ({"top_k": -1}, "invalid_value", "top_k"),
                 ({"max_tokens": 0}, "invalid_value", "max_tokens"), ({"max_tokens": 5000}, "invalid_value", "max_tokens"),
                 ({"max_tokens": 1.5}, "invalid_value", "max_tokens"), ({"n": 5}, "invalid_value", "n"),
                 ({"max_tokens": 9, "max_completion_tokens": 9}, "invalid_value", "max_tokens"),
                 ({"stop": ""}, "invalid_value", "stop"), ({"stop": ["a"] * 5}, "invalid_value", "stop"),
                 ({"stop": [1]}, "invalid_value", "stop"), ({"presence_penalty": 3}, "invalid_value", "presence_penalty"),
                 ({"repetition_penalty": 0}, "invalid_value", "repetition_penalty"), ({"seed": 2**64}, "invalid_value", "seed"),
                 ({"top_logprobs": 2}, "invalid_value", "top_logprobs"),
                 ({"top_logprobs": 21, "logprobs": True}, "invalid_value", "top_logprobs"),
                 ({"stream": "yes"}, "invalid_value", "stream"),
                 ({"stream_options": {"include_usage": True}}, "invalid_value", "stream_options"),
                 ({"stream": True, "stream_options": {"x": 1}}, "unsupported_parameter", "stream_options.x"),
                 ({"tools": [{}]}, "unsupported_parameter", "tools"), ({"tool_choice": "auto"}, "unsupported_parameter", "tool_choice"),
                 ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format"),
                 ({"logit_bias": {"1": 2}}, "unsupported_parameter", "logit_bias"),
                 ({"guided_json": {"a": 1}}, "unsupported_parameter", "guided_json"),
                 ({"mm_processor_kwargs": {"frames": 3}}, "unsupported_parameter", "mm_processor_kwargs.frames"),
                 ({"mm_processor_kwargs": {"fps": 0}}, "invalid_value", "mm_processor_kwargs.fps"),
                 ({"mm_processor_kwargs": {"max_frames": 33}}, "media_limit", "mm_processor_kwargs.max_frames"),
                 ({"mm_processor_kwargs": {"video_start": 3, "video_end": 2}}, "invalid_value", "mm_processor_kwargs.video_end"),
                 ({"media_io_kwargs": {"video": {"num_frames": 0}}}, "invalid_value", "media_io_kwargs.video.num_frames"),
                 ({"purekv": {"polcy": "full"}}, "unsupported_parameter", "purekv.polcy"),
                 ({"purekv": {"policy": "nonsense"}}, "invalid_value", "purekv.policy"),
                 ({"purekv": {"policy": "full", "budget": 0.5}}, "invalid_value", "purekv.budget"),
                 ({"purekv": {**over, "tokens": 9}}, "invalid_value", "purekv.budget"),
                 ({"purekv": {**over, "budget": 1.5}}, "invalid_value", "purekv.budget"),
                 ({"purekv": {**over, "options": {"nonsense": 1}}}, "invalid_value", "purekv.options.nonsense"),
                 ({"purekv": {**over, "when": "later"}}, "invalid_value", "purekv.when"),
                 ({"purekv": {"prefill": {"kind": "fast"}}}, "invalid_value", "purekv.prefill.kind"),
                 ({"purekv": {"prefx": "pfx-1"}}, "unsupported_parameter", "purekv.prefx"),
                 ({"messages": []}, "invalid_value", "messages"), ({"messages": "hello"}, "invalid_value", "messages"),
                 ({"messages": [{"role": "tool", "content": "a"}]}, "invalid_value", "messages[0].role"),
                 ({"messages": [{"role": "user"}]}, "invalid_value", "messages[0].content"),
                 ({"messages": [{"role": "user", "content": 3}]}, "invalid_value", "messages[0].content"),
                 ({"messages": [user("a"), {"role": "assistant", "content": "b"}]}, "invalid_value", "messages[1].role"),
                 ({"messages": [user("a") | {"weight": 1}]}, "unsupported_parameter", "messages[0].weight"),
                 ({"messages": [user({"type": "input_audio", "input_audio": {}})]}, "unsupported_parameter", "messages[0].content[0].type"),
                 ({"messages": [user({"type": "text"})]}, "invalid_value", "messages[0].content[0].text"),
                 ({"messages": [user(text_part("a"), text_part("<|image_pad|>"))]}, "invalid_value", "messages[0].content[1]"),
                 ({"messages": [{"role": "system", "content": [video_part(VIDEOS / "short-00.mp4")]}, user("a")]}, "invalid_value",
                  "messages[0].content[0].type")]
        for settings, code, param in cases:
            with self.subTest(str(settings)[:80]):
                self.refused(self.server.post({"model": "demo", "messages": [user("a")], **settings}), 400, code, param)
        # What SDKs send and what asks for nothing is taken.
        nothing = {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "parallel_tool_calls": True,
                   "tool_choice": "none", "tools": [], "response_format": {"type": "text"}, "logit_bias": {}, "stop": None,
                   "functions": None, "audio": {}}
        self.assertEqual(self.server.chat("a", max_tokens=1, **nothing).status, 200)

    def test_a_prompt_that_does_not_fit(self):
        self.refused(self.server.chat("red " * 40000), 400, "context_length_exceeded", "messages")
        self.refused(self.server.chat("red " * 30000, max_tokens=4096), 400, "context_length_exceeded", "messages")

    def test_media_in_data_urls(self):
        png = ROOT / "tests/data/media/alpha.png"
        for kind in ("image/png", "text/plain", ""):  # the bytes say what it is
            image = {"type": "image_url", "image_url": {"url": data_url(png, kind)}}
            answer = self.server.chat([user(image, text_part("What?"))], max_tokens=2)
            self.assertEqual(answer.status, 200, answer.body)
            self.assertEqual(answer.json["usage"]["purekv"]["media"][0]["kind"], "image")
        url, place = "messages[0].content[0].image_url.url", {"type": "image_url"}
        for bad, code in (("data:image/png;base64,iVBO*w==", "invalid_media"), ("data:image/png;base64,iVB", "invalid_media"),
                          ("data:image/png;base64,AB==", "invalid_media"), ("data:image/png,abc", "invalid_media"),
                          ("data:", "invalid_media"), (data_url(png)[:-40], "invalid_media"),
                          ("data:image/gif;base64,R0lGODlhAQABAAAAACw=", "invalid_media"), (data_url(VIDEOS / "short-00.mp4"), "invalid_media"),
                          ("http://169.254.169.254/latest", "media_not_allowed"), ("https://example.com/a.png", "media_not_allowed"),
                          ("ftp://x/y", "media_not_allowed"), ("/etc/passwd", "media_not_allowed"), ("", "media_not_allowed"),
                          ("data:image/png;base64," + "A" * (6 << 20), "media_limit")):
            with self.subTest(bad[:60]):
                answer = self.server.chat([user({**place, "image_url": {"url": bad}}, text_part("What?"))], max_tokens=2)
                self.refused(answer, 400, code, url)
        # Broken further inside: found by the decoder, still of that request alone.
        broken = bytearray((VIDEOS / "short-00.mp4").read_bytes())
        broken[40:] = b"\0" * len(broken[40:])
        (self.media / "broken.mp4").write_bytes(broken)
        part = {"type": "video_url", "video_url": {"url": f"file://{self.media}/broken.mp4"}}
        answer = self.server.chat([user(text_part("See"), part)])
        self.refused(answer, 400, "invalid_media", "messages[0].content[1].video_url.url")
        self.assertNotIn("/proc", answer.error["message"])
        # A picture of more pixels than are taken, in a few bytes.
        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        bomb = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 16000, 16000, 8, 0, 0, 0, 0)) +
                chunk(b"IDAT", zlib.compress(b"\0" * (16001 * 16000), 9)) + chunk(b"IEND", b""))
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(bomb).decode()}}
        self.refused(self.server.chat([user(image)]), 400, "media_limit", url)
        two = [video_part(VIDEOS / "short-00.mp4")] * 2
        self.refused(self.server.chat([user(*two, text_part("a"))]), 400, "media_limit", "messages")

    def test_frames_and_sizes_of_each_part(self):
        def frames(part, **settings):
            return self.server.chat([user(part, text_part("a"))], max_tokens=1, **settings).json["usage"]["purekv"]["media"][0]["frames"]
        video = VIDEOS / "medium-01.mp4"
        self.assertEqual(frames(video_part(video), mm_processor_kwargs={"max_frames": 8}), 8)
        self.assertEqual(frames(video_part(video, max_frames=4), mm_processor_kwargs={"max_frames": 8}), 4)
        expected = ask("--video", str(video), "-p", "a", "-n", "1", "--fps", "1", "--video-start", "1", "--video-end", "5")
        self.assertEqual(frames(video_part(video), media_io_kwargs={"video": {"fps": 1, "num_frames": -1}},
                                mm_processor_kwargs={"video_start": 1, "video_end": 5}), expected["prompt"]["media"][0]["frames"])
        raw = data_url(video).split(",")[1]
        self.assertLessEqual(frames({"type": "input_video", "input_video": {"data": raw}}), 32)

    def test_local_files_only_below_the_folder(self):
        inside, outside = self.media / "v i.mp4", self.media.parent / "outside.mp4"
        for path in (inside, outside):
            path.write_bytes((VIDEOS / "short-00.mp4").read_bytes())
        os.symlink(outside, self.media / "out.mp4")
        os.symlink(inside, self.media / "absolute.mp4")
        os.symlink("v i.mp4", self.media / "in.mp4")
        os.symlink("/proc/self/fd", self.media / "magic")
        os.mkfifo(self.media / "pipe.mp4")

        def chat(url):
            return self.server.chat([user({"type": "video_url", "video_url": {"url": url}}, text_part("a"))], max_tokens=1)
        for good in (f"file://{self.media}/v%20i.mp4", f"file://localhost{self.media}/in.mp4", f"file:{self.media}/./v i.mp4"):
            self.assertEqual(chat(good).status, 200, good)
        messages = set()
        for bad in (f"file://{outside}", f"file://{self.media}/../outside.mp4", f"file://{self.media}/%2e%2e/outside.mp4",
                    f"file://{self.media}/out.mp4", f"file://{self.media}/absolute.mp4", f"file://{self.media}/pipe.mp4",
                    f"file://{self.media}/magic/0", f"file://{self.media}/none.mp4", f"file://{self.media}", f"file://{self.media}/",
                    "file:///etc/passwd", f"file://host{self.media}/in.mp4", "file:", f"file://{self.media}/in.mp4%00", f"file://{self.media}/%zz",
                    f"file://{self.media}x/in.mp4", f"file:relative{self.media}/in.mp4"):
            with self.subTest(bad):
                answer = chat(bad)
                self.refused(answer, 400, "media_not_allowed", "messages[0].content[0].video_url.url")
                messages.add(answer.error["message"])
        self.assertEqual(len(messages), 1, messages)  # nothing is told of what exists

    def test_nothing_is_left_of_media(self):
        self.server.chat([user(video_part(VIDEOS / "short-00.mp4"), text_part("a"))], max_tokens=1)
        time.sleep(0.3)
        before = self.server.descriptors()
        for _ in range(3):
            self.server.chat([user(video_part(VIDEOS / "short-00.mp4"), text_part("a"))], max_tokens=1)
        self.assertTrue(until(lambda: self.server.descriptors() <= before), self.server.descriptors())
        self.assertEqual([name for name in os.listdir(tempfile.gettempdir()) if name.startswith("purekv-media-")], [])


class OpenAi(unittest.TestCase):
    """The openai package as it is, where it is installed."""

    def test_the_client_library(self):
        try:
            import openai
        except ImportError:
            self.skipTest("no openai package")
        with Server() as server:
            client = openai.OpenAI(base_url=f"http://{server.host}:{server.port}/v1", api_key="none")
            self.assertEqual([model.id for model in client.models.list()], ["demo"])
            messages = [user(video_part(VIDEOS / "short-03.mp4"), text_part("Describe the video."))]
            whole = client.chat.completions.create(model="demo", messages=messages, max_tokens=64, extra_body={"purekv": {"when": "prompt"}})
            self.assertEqual(whole.usage.model_extra["purekv"]["when"], "prompt")
            pieces = client.chat.completions.create(model="demo", messages=messages, max_tokens=64, stream=True)
            self.assertEqual("".join(one.choices[0].delta.content or "" for one in pieces), whole.choices[0].message.content)
            with self.assertRaises(openai.BadRequestError):
                client.chat.completions.create(model="demo", messages=messages, temperature=3)
            with self.assertRaises(openai.NotFoundError):
                client.chat.completions.create(model="other", messages=messages)


if __name__ == "__main__":
    unittest.main()
