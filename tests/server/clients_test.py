#!/usr/bin/env python3
"""Other people's programs: their request bodies as they send them, their packages where they are installed, and the filter of docs/server.md."""
import asyncio
import base64
import importlib.util
import json
import pathlib
import re
import sys
import types
import unittest
import urllib.request

from files_test import form
from serving import LONG, ROOT, VIDEOS, Server, data_url, until

RECORDED = sorted((ROOT / "tests/data/server/clients").glob("*.json"))
VIDEO = VIDEOS / "short-03.mp4"
MEDIA = {"@png": ROOT / "tests/data/media/alpha.png", "@jpeg": ROOT / "tests/data/media/colour_420.jpg", "@mp4": VIDEO}


def have(package):
    return importlib.util.find_spec(package) is not None


def body_of(path):
    text = path.read_text(encoding="utf-8")
    for name, file in MEDIA.items():
        text = text.replace(name, base64.b64encode(file.read_bytes()).decode())
    return text


class Recorded(unittest.TestCase):
    def test_bodies_as_clients_send_them(self):
        self.assertEqual({path.stem.split("_")[0] for path in RECORDED}, {"open", "lmms", "vlmevalkit", "vllm"})
        with Server("--api-key", "sk-any") as server:
            key = {"Authorization": "Bearer sk-any"}
            self.assertEqual([one["id"] for one in server.get("/v1/models", **key).json["data"]], ["demo"])
            for path in RECORDED:
                with self.subTest(path.stem):
                    body = body_of(path)
                    sent = json.loads(body)
                    answer = server.post(body, key)
                    self.assertEqual(answer.status, 200, answer.body)
                    if not sent.get("stream"):
                        reply = answer.json
                        self.assertEqual(reply["choices"][0]["message"]["role"], "assistant")
                        self.assertIn(reply["choices"][0]["finish_reason"], ("stop", "length"))
                        usage = reply["usage"]
                    else:
                        events = answer.events()
                        self.assertEqual(events[-1], "[DONE]")
                        # Open WebUI reads choices[0] of whatever has choices, and usage of the last.
                        self.assertTrue(all(event["choices"] for event in events[:-2]))
                        self.assertTrue("".join(event["choices"][0]["delta"].get("content", "") for event in events[:-2]))
                        usage = events[-2]["usage"]
                    images = body.count('"image_url": {') + body.count('"video_url": {')
                    self.assertEqual(len(usage["purekv"]["media"]), images)
                    self.assertEqual(usage["prompt_tokens_details"]["image_tokens"] > 0, images > 0)

    def test_detail_changes_nothing(self):
        def ask(server, **detail):
            image = {"type": "image_url", "image_url": {"url": data_url(MEDIA["@jpeg"], "image/jpeg"), **detail}}
            return server.chat([{"role": "user", "content": [image, {"type": "text", "text": "What?"}]}], max_tokens=8, purekv={"cache": "off"})
        with Server() as server:
            plain = ask(server).json
            for detail in ("auto", "low", "high"):
                answer = ask(server, detail=detail).json
                self.assertEqual(answer["choices"], plain["choices"])
                self.assertEqual(answer["usage"]["prompt_tokens"], plain["usage"]["prompt_tokens"])
            wrong = ask(server, detail="most")
            self.assertEqual((wrong.status, wrong.error["param"]), (400, "messages[0].content[0].image_url.detail"))


class OpenWebUi(unittest.TestCase):
    """The filter of docs/server.md, in an Open WebUI that is three modules of a few lines."""

    class Requests(types.ModuleType):
        """What the filter uses of the requests package, which a machine that tests need not have."""

        def __init__(self):
            super().__init__("requests")
            self.uploads = 0

        class Reply:
            def __init__(self, status, text):
                self.ok, self.text = status == 200, text

            def json(self):
                return json.loads(self.text)

            def raise_for_status(self):
                if not self.ok:
                    raise RuntimeError(self.text)

        def send(self, request):
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    return self.Reply(reply.status, reply.read())
            except urllib.error.HTTPError as problem:
                return self.Reply(problem.code, problem.read())

        def get(self, url, headers, timeout):
            return self.send(urllib.request.Request(url, headers=headers))

        def post(self, url, headers, data, files, timeout):
            self.uploads += 1
            name, stream = files["file"]
            body = form(*((key, None, value.encode()) for key, value in data.items()), ("file", name, stream.read()))
            return self.send(urllib.request.Request(url, body, {**headers, "Content-Type": "multipart/form-data; boundary=b0undary"}))

    def setUp(self):
        text = re.search(r"```py\n(.*?)```", (ROOT / "docs/server.md").read_text(encoding="utf-8"), re.DOTALL)[1]

        class Files:
            @staticmethod
            async def get_file_by_id_and_user_id(file, user):
                return types.SimpleNamespace(id=file, filename="My video.mp4", path=str(VIDEO)) if (file, user) == ("f1", "u1") else None

        class BaseModel:
            pass

        self.requests = self.Requests()
        modules = {"requests": self.requests, "pydantic": types.SimpleNamespace(BaseModel=BaseModel), "open_webui": types.ModuleType("open_webui"),
                   "open_webui.models": types.ModuleType("open_webui.models"), "open_webui.storage": types.ModuleType("open_webui.storage"),
                   "open_webui.models.files": types.SimpleNamespace(Files=Files),
                   "open_webui.storage.provider": types.SimpleNamespace(Storage=types.SimpleNamespace(get_file=lambda path: path))}
        before = {name: sys.modules.get(name) for name in modules}
        sys.modules.update(modules)
        try:
            scope = {}
            exec(compile(text, "docs/server.md", "exec"), scope)  # the documentation's own
            self.filter = scope["Filter"]()
        finally:
            for name, module in before.items():
                sys.modules.pop(name) if module is None else sys.modules.update({name: module})

    def inlet(self, body, user="u1"):
        return asyncio.run(self.filter.inlet(body, {"id": user}))

    def test_a_video_of_a_chat_reaches_the_model_once(self):
        video = {"type": "file", "id": "f1", "name": "My video.mp4", "content_type": "video/mp4", "file": {"id": "f1", "meta": {"content_type": "video/mp4"}}}
        text = {"type": "file", "id": "f2", "name": "notes.txt", "file": {"id": "f2", "meta": {"content_type": "text/plain"}}}
        with Server("--api-key", "secret") as server:
            key = {"Authorization": "Bearer secret"}
            self.filter.valves.url, self.filter.valves.key = f"http://{server.host}:{server.port}/v1", "secret"
            turns, cached = [], []
            for question in ("Describe the video.", "What moves?"):
                turns.append({"role": "user", "content": question})
                body = self.inlet({"model": "demo", "messages": [{"role": "system", "content": "Be brief."}, *map(dict, turns)], "files": [video, text], "stream": False})
                self.assertEqual(body.pop("files"), [text])
                self.assertEqual([part["type"] for part in body["messages"][1]["content"]], ["video_url", "text"])
                answer = server.post({**body, "max_tokens": 64}, key)
                self.assertEqual(answer.status, 200, answer.body)
                said, usage = answer.json["choices"][0]["message"]["content"], answer.json["usage"]
                self.assertEqual([one["kind"] for one in usage["purekv"]["media"]], ["video"])
                cached.append(usage["prompt_tokens_details"]["cached_tokens"])
                turns.append({"role": "assistant", "content": said})
            self.assertEqual(cached[0], 0)
            self.assertGreater(cached[1], 0)
            self.assertEqual(self.requests.uploads, 1)
            # Uploaded anew when the server has lost it; other people's files are not looked at.
            for one in server.get("/v1/files", **key).json["data"]:
                server.request("DELETE", f"/v1/files/{one['id']}", None, key)
            self.inlet({"messages": [{"role": "user", "content": [{"type": "text", "text": "And?"}]}], "files": [video]})
            self.assertEqual(self.requests.uploads, 2)
            other = {"messages": [{"role": "user", "content": "And?"}], "files": [video]}
            self.assertEqual(self.inlet(json.loads(json.dumps(other)), "u2"), other)
            plain = {"messages": [{"role": "user", "content": "Hi"}]}
            self.assertEqual(self.inlet(dict(plain)), plain)


@unittest.skipUnless(have("openai"), "no openai package: its client was NOT tried")
class OpenAi(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--api-key", "secret", "--cache-memory", "0")
        cls.client = cls.make("OpenAI")

    @classmethod
    def make(cls, kind, **settings):
        import openai
        return getattr(openai, kind)(**{"base_url": f"http://{cls.server.host}:{cls.server.port}/v1", "api_key": "secret", "max_retries": 0, **settings})

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.stop()

    def test_models_files_and_a_chat_about_one(self):
        self.assertEqual([one.id for one in self.client.models.list()], ["demo"])
        self.assertEqual(self.client.models.retrieve("demo").model_extra["purekv"]["family"], "qwen2_5_vl")
        file = self.client.files.create(file=VIDEO, purpose="vision")
        self.assertEqual((file.bytes, self.client.files.retrieve(file.id).filename), (VIDEO.stat().st_size, VIDEO.name))
        self.assertIn(file.id, [one.id for one in self.client.files.list()])
        answer = self.client.chat.completions.create(
            model="demo", max_completion_tokens=64, extra_body={"purekv": {"policy": "purekv", "budget": 0.2}},
            messages=[{"role": "user", "content": [{"type": "file", "file": {"file_id": file.id}}, {"type": "text", "text": "Describe the video."}]}])
        self.assertIn("purple", answer.choices[0].message.content)
        self.assertLess(answer.usage.model_extra["purekv"]["tokens_kept_mean"], answer.usage.prompt_tokens)
        self.assertTrue(self.client.files.delete(file.id).deleted)

    def test_streams(self):
        whole = self.client.chat.completions.create(model="demo", max_tokens=16, messages=[{"role": "user", "content": "Hi"}])
        chunks = list(self.client.chat.completions.create(model="demo", max_tokens=16, messages=[{"role": "user", "content": "Hi"}], stream=True,
                                                          stream_options={"include_usage": True}))
        self.assertEqual("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), whole.choices[0].message.content)
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)

        async def ask():
            async with self.make("AsyncOpenAI") as client:
                stream = await client.chat.completions.create(model="demo", max_tokens=16, messages=[{"role": "user", "content": "Hi"}], stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        self.assertEqual(asyncio.run(ask()), whole.choices[0].message.content)

    def test_a_closed_stream_cancels(self):
        gone = self.server.stderr().count("status=499")
        stream = self.client.chat.completions.create(model="demo", temperature=2, max_tokens=4096, n=4, messages=[{"role": "user", "content": "a"}], stream=True)
        next(stream)
        stream.close()
        self.assertTrue(until(lambda: self.server.stderr().count("status=499") == gone + 1))

    def test_errors_have_their_classes(self):
        import openai
        chat = [{"role": "user", "content": "a"}]
        for error, settings, key in ((openai.NotFoundError, {"model": "other"}, "secret"), (openai.BadRequestError, {"temperature": 3}, "secret"),
                                     (openai.BadRequestError, {"extra_body": {"purekv": {"polcy": "full"}}}, "secret"), (openai.AuthenticationError, {}, "wrong")):
            with self.subTest(error.__name__), self.make("OpenAI", api_key=key) as client:
                with self.assertRaises(error) as raised:
                    client.chat.completions.create(**{"model": "demo", "messages": chat, **settings})
                self.assertTrue(raised.exception.code)

    def test_a_full_queue_is_waited_for(self):
        with Server("--max-queue", "0", "--cache-memory", "0") as server:
            sock = server.start_chat(LONG, max_tokens=1, stream=True)
            try:
                self.assertIn(b" 200 OK", sock.recv(64))  # it is being read
                self.assertEqual(server.chat("a", max_tokens=1).status, 429)
                with self.make("OpenAI", base_url=f"http://{server.host}:{server.port}/v1", max_retries=10) as client:
                    answer = client.chat.completions.create(model="demo", max_tokens=1, messages=[{"role": "user", "content": "a"}])
                self.assertEqual(answer.usage.completion_tokens, 1)
            finally:
                sock.close()


@unittest.skipUnless(have("langchain_openai"), "no langchain-openai package: its client was NOT tried")
class LangChain(unittest.TestCase):
    def test_chats(self):
        from langchain_core.messages import HumanMessage
        from langchain_openai import ChatOpenAI
        with Server() as server:
            model = ChatOpenAI(model="demo", base_url=f"http://{server.host}:{server.port}/v1", api_key="none", max_completion_tokens=16, stream_usage=True,
                               extra_body={"purekv": {"policy": "purekv", "budget": 0.5}})
            text = model.invoke("Hi")
            self.assertTrue(text.content)
            self.assertEqual(text.usage_metadata["output_tokens"], text.response_metadata["token_usage"]["completion_tokens"])
            chunks = list(model.stream("Hi"))
            self.assertEqual("".join(chunk.content for chunk in chunks), text.content)
            self.assertEqual(sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata), text.usage_metadata["output_tokens"])
            for image in ({"type": "image", "base64": base64.b64encode(MEDIA["@jpeg"].read_bytes()).decode(), "mime_type": "image/jpeg"},
                          {"type": "image_url", "image_url": {"url": data_url(MEDIA["@jpeg"], "image/jpeg"), "detail": "low"}}):
                seen = model.invoke([HumanMessage(content=[{"type": "text", "text": "What?"}, image])])
                self.assertGreater(seen.usage_metadata["input_tokens"], text.usage_metadata["input_tokens"])


if __name__ == "__main__":
    unittest.main(verbosity=2)  # says what is skipped, and why
