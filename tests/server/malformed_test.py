#!/usr/bin/env python3
"""What is no request, byte by byte: answered with 4xx or closed, and the server serves the next one."""
import json
import random
import select
import socket
import time
import unittest

from serving import Server, resident, until, user

HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"model": "demo", "messages": [user("a")], "max_tokens": 1})


def status(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None


class Malformed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-body", "1M", "--max-body-total", "3M")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def tearDown(self):
        self.assertEqual(self.server.get("/health").json, {"status": "ok"})

    def expect(self, data, *statuses):
        answer = self.server.raw(data if isinstance(data, bytes) else data.encode())
        self.assertIn(status(answer), statuses, (data[:120], answer[:200]))
        if answer and status(answer) != 200:
            head, _, body = answer.partition(b"\r\n\r\n")
            self.assertEqual(set(json.loads(body)["error"]), {"message", "type", "param", "code"})
            self.assertIn(b"X-Request-Id: ", head)
        return answer

    def test_lengths_that_smuggle(self):
        n = len(BODY)
        for fields in (f"Content-Length: {n}\r\nTransfer-Encoding: chunked\r\n", f"Transfer-Encoding: chunked\r\nContent-Length: {n}\r\n",
                       f"Content-Length: {n}\r\nContent-Length: {n}\r\n", f"Content-Length: {n}\r\nContent-Length: {n + 1}\r\n",
                       f"Content-Length: {n}, {n}\r\n", f"Content-Length: +{n}\r\n", f"Content-Length: -{n}\r\n", "Content-Length: 0x10\r\n",
                       "Content-Length: \r\n", f"Content-Length: {n}a\r\n", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                       "Transfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding: identity\r\n", "Transfer-Encoding: chunked, identity\r\n",
                       "Transfer-Encoding: xchunked\r\n", "Content-Length : 5\r\n", "Content-Length\r\n: 5\r\n",
                       "X: a\r\n Content-Length: 5\r\nContent-Length: 4, 5\r\n"):
            with self.subTest(fields):
                self.expect(HEAD + fields + "\r\n" + BODY, 400)
        for length in (2**63, 2**64 - 1, 2**64, 2**64 + n, 10**30, 2 << 20):
            with self.subTest(length):
                self.expect(HEAD + f"Content-Length: {length}\r\n\r\n" + BODY, 400, 413)
        self.expect(HEAD + "\r\n", 411)

    def test_chunks(self):
        head = HEAD + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        n = len(BODY)
        self.assertIn(b'"chat.completion"', self.expect(head + f"{n:x}\r\n{BODY}\r\n0\r\n\r\n", 200))
        pieces = "".join(f"1;ext=a\r\n{c}\r\n" for c in BODY)
        self.expect(head + pieces + "0\r\n\r\n", 200)
        for chunks in (f"-2\r\n{BODY}\r\n0\r\n\r\n", f"+{n:x}\r\n{BODY}\r\n0\r\n\r\n", f"0x{n:x}\r\n{BODY}\r\n0\r\n\r\n", "\r\n\r\n",
                       f"{n - 1:x}\r\n{BODY}\r\n0\r\n\r\n", "ffffffffffffffff\r\na", "fffffffffffffffff\r\na", "8000000000000000\r\na",
                       "g\r\na", f"{n:x}\n{BODY}\r\n0\r\n\r\n", " 5\r\nabcde\r\n0\r\n\r\n"):
            with self.subTest(chunks[:20]):
                answer = self.server.raw((head + chunks).encode(), half=True)
                self.assertIn(status(answer), (400, 413, None), answer[:200])
        # More than a body may have, without a length that says so.
        self.expect((head + "40000\r\n" + "a" * 0x40000 + "\r\n") + ("40000\r\n" + "a" * 0x40000 + "\r\n") * 5, 413)

    def test_lines_that_never_end(self):
        head = HEAD + "Transfer-Encoding: chunked\r\n\r\n"
        before = resident(self.server)
        for line, more in (("1;name=", "a" * 65536), ("1\r\na\r\n0;name=", "a" * 65536), ("0\r\n", "X: a\r\n" * 10000), ("0\r\nX: ", "a" * 65536)):
            with self.subTest(line), socket.create_connection((self.server.host, self.server.port), timeout=20) as sock:
                sock.sendall((head + line).encode())
                sent, answer = 0, b""
                try:
                    while sent < 64 << 20 and not select.select([sock], [], [], 0)[0]:
                        sent += sock.send(more.encode())
                    answer = sock.recv(1000)
                except ConnectionError:
                    pass
                self.assertLess(sent, 64 << 20)
                self.assertIn(status(answer), (400, None), answer)
        self.assertLess(resident(self.server) - before, 16 << 20)

    def test_heads(self):
        self.expect("GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + "a" * 20000 + "\r\n\r\n", 431)
        self.expect("GET /health HTTP/1.1\r\nHost: localhost\r\n" + "X: a\r\n" * 4000 + "\r\n", 431)
        self.expect("GET /" + "a" * 20000 + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 431)
        for head in ("GET /health\r\n\r\n", "GET /health HTTP/2.0\r\n\r\n", "GET /health HTTP/1.1 x\r\nHost: localhost\r\n\r\n",
                     "GET  /health HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET /hea lth HTTP/1.1\r\nHost: localhost\r\n\r\n", " GET / HTTP/1.1\r\n\r\n",
                     "GET /health HTTP/1.1\r\nHost localhost\r\n\r\n", "GET /health HTTP/1.1\r\nHo st: localhost\r\n\r\n",
                     "GET /health HTTP/1.1\r\nHost: local\0host\r\n\r\n", "GET /health HTTP/1.1\r\n: a\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                     "\0" * 100 + "\r\n\r\n", "{}\r\n\r\n"):
            with self.subTest(head[:60]):
                answer = self.server.raw(head.encode("latin-1"), half=True)
                self.assertIn(status(answer), (400, None), answer[:200])
        self.assertEqual(self.server.raw(b""  b"GET /heal", half=True), b"")

    def test_hosts_methods_paths_and_types(self):
        def get(*fields, line="GET /health HTTP/1.1"):
            return line + "\r\n" + "".join(field + "\r\n" for field in fields) + "Connection: close\r\n\r\n"
        for good in ("localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:80", "[::1]"):
            self.expect(get(f"Host: {good}"), 200)
        for bad in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "169.254.169.254", "evil.example:localhost", "[::2]"):
            self.expect(get(f"Host: {bad}"), 421)
        self.expect(get(), 421)
        here = "Host: localhost"
        for line in ("POST /health HTTP/1.1", "DELETE /v1/models HTTP/1.1", "GET /v1/chat/completions HTTP/1.1", "OPTIONS /v1/chat/completions HTTP/1.1",
                     "HEAD /health HTTP/1.1", "BREW /health HTTP/1.1"):
            self.assertIn(status(self.server.raw(get(here, line=line).encode())), (400, 405), line)
        for path in ("/v1", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/models/", "/../health", "//health", "/health/", "*",
                     "http://localhost/health", "/page.html", "/page.js/", "/../page.js"):
            self.expect(get(here, line=f"GET {path} HTTP/1.1"), 404)
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", "application/jsonx", ""):
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nConnection: close\r\n"
            self.expect(head + f"Content-Length: {len(BODY)}\r\n\r\n{BODY}", 415)
        self.expect(HEAD + f"Content-Encoding: gzip\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}", 415)
        self.expect(HEAD + f"Expect: 200-ok\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}", 417)
        typed = HEAD.replace("application/json", "Application/JSON ; charset=utf-8")
        self.expect(typed + f"Connection: close\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}", 200)

    def test_bodies(self):
        def nested(depth):
            return '{"model": "demo", "metadata": ' + '{"a":' * (depth - 1) + "1" + "}" * depth
        chat = '{"model": "demo", "messages": [{"role": "user", "content": "%s"}], "max_tokens": 1}'
        for text in ("", " ", "null", "[]", "1", '"a"', "{", '{"model": "demo"', '{"model": NaN}', "{'model': 1}", '{"model": "demo",}', nested(33),
                     "[" * 100000, '{"a":' * 100000, '{"model": "demo", "model": "demo", "messages": []}',
                     '{"model": "demo", "messages": [{"role": "user", "role": "system", "content": "a"}]}', chat % "\\ud800", chat % "\\x", chat % "\n",
                     chat % "a" + "x", '{"model": "demo", "seed": 1e400}', "1" * 5000, '{"model": ' + "9" * 5000 + "}"):
            with self.subTest(text[:50]):
                self.assertEqual(self.server.post(text.encode()).status, 400)
        for raw in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"a\x00b", b"\xf0\x9f\x98"):
            with self.subTest(raw):
                self.assertEqual(self.server.post((chat % "X").encode().replace(b"X", raw)).status, 400)
        messages = '"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "metadata"'
        for depth, expected in ((32, 200), (33, 400)):
            self.assertEqual(self.server.post(nested(depth).replace('"metadata"', messages)).status, expected)
        self.assertEqual(self.server.post((chat % "\\ud83d\\ude00 \u00e9").encode()).status, 200)

    def test_a_body_that_stops_half_way_is_no_request(self):
        for cut in (1, len(BODY) // 2, len(BODY) - 1):
            self.assertEqual(self.server.raw((HEAD + f"Content-Length: {len(BODY)}\r\n\r\n{BODY[:cut]}").encode(), half=True), b"")

    def test_an_answer_to_head_has_no_body(self):
        connection = self.server.open()
        for method in ("HEAD", "GET"):
            connection.request(method, "/health")
            response = connection.getresponse()
            self.assertEqual((response.status, response.read()), (405, b"") if method == "HEAD" else (200, b'{"status":"ok"}'))
        connection.close()

    def test_an_old_client_gets_its_stream(self):
        body = json.dumps({"model": "demo", "messages": [user("a")], "max_tokens": 3, "stream": True})
        answer = self.server.raw((HEAD.replace("HTTP/1.1", "HTTP/1.0") + f"Content-Length: {len(body)}\r\n\r\n{body}").encode())
        head, _, stream = answer.partition(b"\r\n\r\n")
        self.assertNotIn(b"chunked", head)
        self.assertTrue(stream.endswith(b"\n\ndata: [DONE]\n\n") and stream.startswith((b": ", b"data: ")), stream)

    def test_requests_one_behind_the_other(self):
        # Characters and requests cut anywhere.
        text = BODY.replace('"a"', '"\u00e9\U0001f600"').encode()
        one = (HEAD + f"Content-Length: {len(text)}\r\n\r\n").encode() + text
        data = one * 3 + b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        randomly = random.Random(1)
        with socket.create_connection((self.server.host, self.server.port), timeout=20) as sock:
            at = 0
            while at < len(data):
                step = randomly.randint(1, 40)
                sock.sendall(data[at:at + step])
                at += step
                time.sleep(0.001)
            got = b""
            while piece := sock.recv(65536):
                got += piece
        self.assertEqual(got.count(b"HTTP/1.1 200 OK"), 4)
        self.assertEqual(got.count(b'"chat.completion"'), 3)

    def test_what_bodies_took_goes_back(self):
        with Server() as server:
            self.assertEqual(server.post(BODY).status, 200)
            before = resident(server)
            for what in ("[" + "[{}]," * 1000000 + "0]", '"' + "a" * 60000000 + '"'):
                self.assertEqual(server.post(BODY.replace("}]", '}], "metadata": ' + what, 1)).status, 200)
                self.assertTrue(until(lambda: resident(server) - before < 16 << 20, 10), (resident(server), before))

    def test_a_large_body_is_asked_for_first(self):
        with socket.create_connection((self.server.host, self.server.port), timeout=20) as sock:
            sock.sendall((HEAD + f"Expect: 100-continue\r\nConnection: close\r\nContent-Length: {len(BODY)}\r\n\r\n").encode())
            self.assertEqual(sock.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
            sock.sendall(BODY.encode())
            self.assertIn(b"200 OK", sock.recv(1000))
        # And refused before it comes.
        self.expect(HEAD + "Expect: 100-continue\r\nContent-Length: 2000000\r\n\r\n", 413)

    def test_bodies_count_together(self):
        held = []
        try:
            for _ in range(3):
                sock = socket.create_connection((self.server.host, self.server.port), timeout=20)
                sock.sendall((HEAD + f"Content-Length: {1 << 20}\r\n\r\n").encode())
                held.append(sock)
            time.sleep(0.3)
            self.assertIn(b"Retry-After: ", self.expect(HEAD + f"Content-Length: {len(BODY)}\r\n\r\n{BODY}", 503))
        finally:
            for sock in held:
                sock.close()
        time.sleep(0.3)
        self.assertEqual(self.server.post(BODY).status, 200)

    def test_random_bytes_and_random_changes(self):
        randomly = random.Random(7)
        whole = (HEAD + f"Content-Length: {len(BODY)}\r\n\r\n{BODY}").encode()
        for i in range(400):
            data = bytearray(whole if i % 2 else randomly.randbytes(randomly.randint(1, 300)))
            for _ in range(randomly.randint(1, 6)):
                at = randomly.randrange(len(data))
                if randomly.random() < 0.5:
                    data[at] = randomly.randrange(256)
                else:
                    del data[at:at + randomly.randint(1, 3)]
                data = data or bytearray(b"x")
            answer = self.server.raw(bytes(data), half=True)
            self.assertTrue(status(answer) is None or 200 <= status(answer) < 500, (bytes(data), answer[:200]))


if __name__ == "__main__":
    unittest.main()
