#!/usr/bin/env python3
"""What browsers are told: the page's files and their headers, and which pages of elsewhere may ask."""
import json
import re
import subprocess
import unittest

from serving import CLEAN, MODEL, PROGRAM, ROOT, Server
from files_test import IMAGE, form, post

FOLDER = ROOT / "src/server/page"
SCRIPTS = ("requests.js", "file.js", "chat.js", "kept.js", "events.js")  # joined
FILES = {"/": (("page.html",), "text/html; charset=utf-8"), "/page.js": (SCRIPTS, "text/javascript; charset=utf-8"),
         "/page.css": (("page.css",), "text/css; charset=utf-8"), "/page.svg": (("page.svg",), "image/svg+xml")}
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
          "frame-ancestors 'none'")
MINE, OTHER = "https://mine.example", "https://other.example:8443"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os"}


def cors(answer):
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-") or name == "vary"}


def refused(*flags):
    done = subprocess.run([PROGRAM, "serve", "-m", str(MODEL), "--port", "0", *flags], env=CLEAN, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


class Page(unittest.TestCase):
    def test_its_files_come_as_they_are_without_a_key(self):
        with Server("--api-key", "secret") as server:
            for path, (parts, kind) in FILES.items():
                with self.subTest(path):
                    answer = server.get(path)
                    self.assertEqual(answer.status, 200)
                    self.assertEqual(answer.body, b"".join((FOLDER / part).read_bytes() for part in parts))
                    self.assertEqual(answer.headers["content-type"], kind)
                    self.assertEqual(answer.headers["content-security-policy"], POLICY)
                    self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
                    self.assertEqual(answer.headers["referrer-policy"], "no-referrer")
                    self.assertEqual(answer.headers["cache-control"], "no-cache")
                    self.assertEqual(cors(answer), {})
                    head = server.request("HEAD", path)
                    self.assertEqual((head.status, head.body, head.headers["content-length"]), (200, b"", str(len(answer.body))))
                    self.assertEqual(server.request("POST", path, "{}", {"Content-Type": "application/json"}).status, 401)
            for path in ("/page.html", "/page.json", "/page.js/", "//page.js", "/page/page.js", "/v1/models"):
                with self.subTest(path):
                    self.assertEqual(server.get(path).status, 401)
            key = {"Authorization": "Bearer secret"}
            self.assertEqual(server.get("/page.html", **key).status, 404)
            self.assertEqual(server.request("PUT", "/page.js", "x", key).status, 404)
            self.assertEqual(server.get("/?a=b").status, 200)

    def test_it_answers_to_this_machine_s_names_alone(self):
        with Server() as server:
            self.assertEqual(server.get("/", Host="elsewhere.example").status, 421)

    def test_it_can_be_left_out(self):
        with Server("--no-web") as server:
            for path in FILES:
                self.assertEqual(server.get(path).status, 404)

    def test_it_names_no_other_origin(self):
        files = list(FOLDER.iterdir())
        self.assertEqual({file.name for file in files}, {part for parts, _ in FILES.values() for part in parts})
        for name, text in ((file.name, file.read_text(encoding="utf-8")) for file in files):
            self.assertEqual(re.findall(r"(?:https?:)?//[a-z][\w.-]*\.[a-z]+", text.replace("http://www.w3.org/2000/svg", "")), [], name)
            for markup in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=", "onclick=\""):
                self.assertNotIn(markup, text, name)


class Cors(unittest.TestCase):
    def test_without_a_list_nobody_is_told_anything(self):
        with Server() as server:
            answer = server.get("/v1/models", Origin=MINE)
            self.assertEqual((answer.status, cors(answer)), (200, {}))
            answer = server.request("OPTIONS", "/v1/chat/completions", None, {"Origin": MINE, **PREFLIGHT})
            self.assertEqual((answer.status, cors(answer)), (405, {}))

    def test_listed_origins_are_answered_and_no_other(self):
        with Server("--cors-origins", f"HTTPS://mine.example,{OTHER}", "--api-key", "k") as server:
            key = {"Authorization": "Bearer k"}
            for origin in (MINE, OTHER):
                answer = server.request("OPTIONS", "/v1/chat/completions", None, {"Origin": origin, **PREFLIGHT})
                self.assertEqual(answer.status, 200)
                told = cors(answer)
                self.assertEqual((told["access-control-allow-origin"], told["vary"]), (origin, "Origin"))
                self.assertEqual(told["access-control-allow-headers"], PREFLIGHT["Access-Control-Request-Headers"])
                self.assertEqual(told["access-control-allow-methods"], "GET, POST, DELETE")
                # Errors too, or the page could not read why.
                for answer in (server.get("/v1/models", Origin=origin), server.get("/v1/models", Origin=origin, **key),
                               server.post("{", {"Origin": origin, **key}),
                               server.chat("Hi", {"Origin": origin, **key}, max_tokens=1, stream=True)):
                    self.assertEqual(cors(answer)["access-control-allow-origin"], origin)
                    self.assertIn("X-Request-Id", cors(answer)["access-control-expose-headers"])
                answer = post(server, form(("file", "i.png", IMAGE.read_bytes()), ("purpose", None, b"vision")), Origin=origin, **key)
                self.assertEqual((answer.status, cors(answer)["access-control-allow-origin"]), (200, origin))
            for origin in ("https://evil.example", "http://mine.example", MINE + ".evil.example", "null", "*"):
                with self.subTest(origin):
                    answer = server.request("OPTIONS", "/v1/chat/completions", None, {"Origin": origin, **PREFLIGHT})
                    self.assertEqual((answer.status, cors(answer)), (403, {"vary": "Origin"}))
                    self.assertEqual(cors(server.get("/v1/models", Origin=origin, **key)), {"vary": "Origin"})
            # What only looks like a preflight needs the key.
            self.assertEqual(server.request("OPTIONS", "/v1/models", None, {"Origin": MINE}).status, 401)
            # The next request on a connection is told what is its own.
            connection = server.open()
            for origin, expected in ((MINE, MINE), ("https://evil.example", None)):
                connection.request("GET", "/v1/models", headers={"Origin": origin, **key})
                response = connection.getresponse()
                response.read()
                self.assertEqual(response.getheader("Access-Control-Allow-Origin"), expected)
            connection.close()

    def test_any_origin(self):
        with Server("--cors-origins", "*") as server:
            answer = server.get("/v1/models", Origin="https://whoever.example")
            self.assertEqual(cors(answer)["access-control-allow-origin"], "*")
            self.assertEqual(server.get("/v1/models").headers.get("access-control-allow-origin"), None)

    def test_what_cannot_be_listed(self):
        for flags, words in ((["--cors-origins", "*", "--api-key", "k"], "* and keys do not go together"),
                             (["--cors-origins", "https://a.example,*", "--api-key", "k"], "* and keys do not go together"),
                             (["--cors-origins", "mine.example"], "'mine.example' is no origin"),
                             (["--cors-origins", "null"], "'null' is no origin"),
                             (["--cors-origins", "https://mine.example/"], "is no origin"),
                             (["--cors-origins", "https://mine.example,"], "empty name"),
                             (["--cors-origins", "https://"], "is no origin")):
            with self.subTest(flags):
                status, text = refused(*flags)
                self.assertEqual(status, 2, text)
                self.assertIn(words, text)
                self.assertEqual(len(text.splitlines()), 1, text)

    def test_uploads_of_the_page_behind_a_proxy(self):
        body = form(("file", "i.png", IMAGE.read_bytes()), ("purpose", None, b"vision"))
        with Server() as server:
            origin = {"Origin": "https://purekv.example"}
            self.assertEqual(post(server, body, **origin, **{"Sec-Fetch-Site": "cross-site"}).status, 403)
            self.assertEqual(post(server, body, **origin, **{"Sec-Fetch-Site": "same-site"}).status, 403)
            self.assertEqual(post(server, body, **origin, **{"Sec-Fetch-Site": "same-origin"}).status, 200)

    def test_models_name_the_policies_that_a_page_may_offer(self):
        said = subprocess.run([PROGRAM, "policies", "--json", "-"], env=CLEAN, capture_output=True, text=True, timeout=20, check=False)
        with Server() as server:
            policies = server.get("/v1/models").json["data"][0]["purekv"]["policies"]
        self.assertEqual(policies, [one["name"] for one in json.loads(said.stdout)["policies"]])


if __name__ == "__main__":
    unittest.main()
