#!/usr/bin/env python3
"""Uploaded files: their objects, lists, keys and limits, and chats about them."""
import hashlib
import http.client
import json
import pathlib
import signal
import socket
import tempfile
import time
import unittest

from serving import ROOT, VIDEOS, Server, text_part, until, user, video_part

VIDEO, IMAGE = VIDEOS / "short-03.mp4", ROOT / "tests/data/media/alpha.png"


def form(*parts, boundary="b0undary", end="--\r\n"):
    """A body of (name, filename or None, bytes)."""
    body = b""
    for name, filename, data in parts:
        named = f'; filename="{filename}"' if filename is not None else ""
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + data + b"\r\n"
    return body + f"--{boundary}{end}".encode()


def upload(server, data, filename="a.mp4", purpose=b"vision", **headers):
    return post(server, form(("purpose", None, purpose), ("file", filename, data)), **headers)


def post(server, body, **headers):
    return server.request("POST", "/v1/files", body, {"Content-Type": "multipart/form-data; boundary=b0undary", **headers})


class Files(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-upload", "3M", "--files-disk", "5M")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def tearDown(self):
        for one in self.server.get("/v1/files").json["data"]:
            self.assertEqual(self.server.request("DELETE", f"/v1/files/{one['id']}").json, {"id": one["id"], "object": "file", "deleted": True})

    def refused(self, answer, status, code, param=None):
        self.assertEqual((answer.status, answer.error["code"], answer.error["param"]), (status, code, param), answer.body)

    def test_a_file_and_chats_about_it(self):
        data = VIDEO.read_bytes()
        one = upload(self.server, data, 'a "b".mp4'.replace('"', '\\"')).json
        self.assertEqual((one["object"], one["bytes"], one["filename"], one["purpose"], one["status"]),
                         ("file", len(data), 'a "b".mp4', "vision", "processed"))
        self.assertEqual(one["sha256"], hashlib.sha256(data).hexdigest())
        self.assertEqual(self.server.get(f"/v1/files/{one['id']}").json, one)

        def answer(part):
            reply = self.server.chat([user(part, text_part("Describe the video."))], max_tokens=32, purekv={"cache": "off"})
            self.assertEqual(reply.status, 200, reply.body)
            return reply.json["choices"][0]["message"]["content"]
        expected = answer(video_part(VIDEO))
        for part in ({"type": "file", "file": {"file_id": one["id"]}}, {"type": "video_url", "video_url": {"url": one["id"]}}):
            self.assertEqual(answer(part), expected)
        image = upload(self.server, IMAGE.read_bytes(), "i.png").json["id"]
        reply = self.server.chat([user({"type": "file", "file": {"file_id": image}}, text_part("What?"))], max_tokens=1)
        self.assertEqual(reply.json["usage"]["purekv"]["media"][0]["kind"], "image")
        wrong = self.server.chat([user({"type": "video_url", "video_url": {"url": image}}, text_part("What?"))])
        self.refused(wrong, 400, "invalid_media", "messages[0].content[0].video_url.url")
        none = self.server.chat([user({"type": "file", "file": {"file_id": "file-none"}}, text_part("What?"))])
        self.refused(none, 400, "media_not_allowed", "messages[0].content[0].file.file_id")
        five = [{"type": "file", "file": {"file_id": one["id"]}}] * 5
        self.refused(self.server.chat([user(*five, text_part("What?"))]), 400, "media_limit", "messages")

    def test_lists(self):
        ids = [upload(self.server, IMAGE.read_bytes(), "i.png", purpose).json["id"] for purpose in (b"a", b"b", b"a")]

        def listed(query):
            answer = self.server.get("/v1/files" + query)
            self.assertEqual(answer.status, 200, answer.body)
            return [one["id"] for one in answer.json["data"]], answer.json["has_more"]
        self.assertEqual(listed(""), (ids[::-1], False))
        self.assertEqual(listed("?order=asc&limit=2"), (ids[:2], True))
        self.assertEqual(listed(f"?order=asc&limit=2&after={ids[1]}"), (ids[2:], False))
        self.assertEqual(listed("?purpose=a&order=asc"), ([ids[0], ids[2]], False))
        for query, param in (("?limit=0", "limit"), ("?limit=x", "limit"), ("?order=up", "order"), ("?after=file-x", "after"), ("?limit=1&limit=2", "limit")):
            self.refused(self.server.get("/v1/files" + query), 400, "invalid_value", param)
        self.refused(self.server.get("/v1/files?page=2"), 400, "unsupported_parameter", "page")
        for method in ("GET", "DELETE"):
            self.refused(self.server.request(method, "/v1/files/file-none"), 404, "not_found")
        self.assertEqual(self.server.request("PUT", "/v1/files", b"").status, 405)

    def test_what_is_wrong_with_an_upload(self):
        data = IMAGE.read_bytes()
        good = ("file", "i.png", data), ("purpose", None, b"vision")
        self.assertEqual(post(self.server, form(*good)).status, 200)  # in any order
        for body, code, param in ((form(good[0]), "invalid_value", "purpose"), (form(good[1]), "invalid_value", "file"),
                                  (form(), "invalid_value", "file"), (b"", "invalid_value", "the body"), (form(*good, end=""), "invalid_value", "the body"),
                                  (form(*good, boundary="other"), "invalid_value", "the body"), (form(good[0], *good), "invalid_value", "file"),
                                  (form(("file", None, data), good[1]), "invalid_value", "file"), (form(("file", "", data), good[1]), "invalid_value", "file"),
                                  (form(("file", "x" * 300, data), good[1]), "invalid_value", "file"), (form(good[0], ("purpose", None, b"")), "invalid_value", "purpose"),
                                  (form(good[0], ("purpose", None, b"x" * 300)), "invalid_value", "purpose"), (form(("expires_after[seconds]", None, b"9"), *good), "unsupported_parameter", "expires_after[seconds]"),
                                  (form(("file", "a.txt", b"hello"), good[1]), "invalid_media", "file"), (form(("file", "a.txt", b""), good[1]), "invalid_media", "file"),
                                  (form(("file", "a.txt", b"x" * 2000000), good[1]), "invalid_media", "file"),
                                  (b"--b0undary\r\n\r\nx\r\n--b0undary--", "invalid_value", "the body"), (b"--b0undary" + b" " * 5000, "invalid_value", "the body"),
                                  (b"--b0undary\r\nX: " + b"y" * 9000, "invalid_value", "the body"), (b"--b0undaryX\r\n", "invalid_value", "the body")):
            with self.subTest(body[:80]):
                self.refused(post(self.server, body), 400, code, param)
        for kind in ("application/json", "multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=b0undary"):
            self.refused(post(self.server, form(*good), **{"Content-Type": kind}), 415, "wrong_content_type")
        self.refused(post(self.server, form(*good), Origin="http://elsewhere.example"), 403, "wrong_origin")
        self.assertEqual(post(self.server, form(*good), Origin=f"http://{self.server.host}:{self.server.port}").status, 200)
        big = IMAGE.read_bytes() + bytes(3 << 20)
        self.refused(upload(self.server, big), 413, "body_too_large", "file")
        self.assertEqual(upload(self.server, big + big).status, 413)  # by its length alone
        self.assertEqual(len(self.server.get("/v1/files").json["data"]), 2)

    def test_all_files_together_have_a_limit(self):
        two = IMAGE.read_bytes() + bytes(2 << 20)
        first = upload(self.server, two).json["id"]
        self.assertEqual(upload(self.server, two).status, 200)
        self.refused(upload(self.server, two), 413, "storage_full", "file")
        self.server.request("DELETE", f"/v1/files/{first}")
        self.assertEqual(upload(self.server, two).status, 200)

    def test_a_client_that_goes_leaves_nothing(self):
        before = self.server.descriptors()
        body = form(("file", "i.png", IMAGE.read_bytes() + bytes(2 << 20)), ("purpose", None, b"vision"))
        for _ in range(4):  # more than fit together
            with socket.create_connection((self.server.host, self.server.port)) as sock:
                sock.sendall(f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b0undary\r\n"
                             f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:2 << 20])
        # Whoever has not been noticed yet takes room still.
        self.assertTrue(until(lambda: upload(self.server, IMAGE.read_bytes() + bytes(2 << 20)).status == 200))
        self.assertTrue(until(lambda: self.server.descriptors() <= before + 1))  # the file that is kept


class Large(unittest.TestCase):
    def test_memory_does_not_grow_with_a_file(self):
        with Server() as server:
            def peak():
                text = pathlib.Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
                return int(text.split("VmHWM:")[1].split()[0])
            upload(server, IMAGE.read_bytes(), "i.png")
            before, size, piece = peak(), 200 << 20, bytes(1 << 20)
            head = form(("purpose", None, b"vision"), ("file", "i.png", IMAGE.read_bytes()), end="")[:-len("\r\n--b0undary")]
            tail = b"\r\n--b0undary--\r\n"
            start = time.monotonic()
            connection = http.client.HTTPConnection(server.host, server.port, timeout=120)
            connection.putrequest("POST", "/v1/files")
            connection.putheader("Content-Type", "multipart/form-data; boundary=b0undary")
            connection.putheader("Content-Length", str(len(head) + size + len(tail)))
            connection.endheaders(head)
            for _ in range(size // len(piece)):
                connection.send(piece)
            connection.send(tail)
            answer = connection.getresponse()
            self.assertEqual(answer.status, 200)
            self.assertEqual(json.loads(answer.read())["bytes"], size + len(IMAGE.read_bytes()))
            connection.close()
            print(f"{size >> 20} MiB in {time.monotonic() - start:.2f} s; the server grew by {peak() - before} KiB")
            self.assertLess(peak() - before, 16 << 10)


class Directory(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name) / "files"
        self.flags = ("--files-dir", str(self.folder), "--api-key", "a", "--api-key", "b")

    A, B = {"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}

    def names(self):
        return sorted(one.name for one in self.folder.iterdir() if one.name.startswith("file-"))

    def describe(self, server, name):
        answer = server.chat([user({"type": "file", "file": {"file_id": name}}, text_part("Describe the video."))], self.A, max_tokens=24)
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json["choices"][0]["message"]["content"]

    def test_files_outlive_the_server(self):
        with Server(*self.flags) as server:
            first = upload(server, VIDEO.read_bytes(), "f\u00e9.mp4", **self.A).json
            other = upload(server, IMAGE.read_bytes(), "i.png", **self.B).json
            said = self.describe(server, first["id"])
            self.assertEqual(self.names(), sorted(one["id"] + end for one in (first, other) for end in ("", ".json")))
            for one in self.folder.iterdir():
                self.assertEqual(one.stat().st_mode & 0o777, 0o600, one)
            self.assertEqual(self.folder.stat().st_mode & 0o777, 0o700)
            with self.assertRaises(RuntimeError) as failure:
                Server(*self.flags)
            self.assertIn("another process", str(failure.exception))
            server.signal(signal.SIGKILL)
            server.wait()
        with Server(*self.flags) as server:
            self.assertEqual(server.get("/v1/files", **self.A).json["data"], [first])
            self.assertEqual(server.get(f"/v1/files/{other['id']}", **self.B).json, other)
            self.assertEqual(server.get(f"/v1/files/{other['id']}", **self.A).status, 404)
            self.assertEqual(self.describe(server, first["id"]), said)
            self.assertEqual(server.request("DELETE", f"/v1/files/{first['id']}", None, self.A).status, 200)
            self.assertEqual(self.names(), [other["id"], other["id"] + ".json"])
        with Server(*self.flags) as server:
            self.assertEqual(server.get("/v1/files", **self.A).json["data"], [])

    def test_what_is_damaged_is_left_out(self):
        with Server(*self.flags) as server:
            ids = [upload(server, IMAGE.read_bytes(), "i.png", **self.A).json["id"] for _ in range(8)]

        def record(i, **changed):
            path = self.folder / f"{ids[i]}.json"
            path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changed}), encoding="utf-8")
        with open(self.folder / ids[0], "ab") as file:
            file.write(b"x")
        (self.folder / f"{ids[1]}.json").write_text("{", encoding="utf-8")
        record(2, id=ids[3])
        record(3, owner="../x")
        record(4, kind="program")
        (self.folder / ids[5]).unlink()
        (self.folder / ids[5]).symlink_to(IMAGE)
        (self.folder / f"{ids[6]}.json").unlink()  # its bytes alone: half written
        half = [f"file-{'0' * 24}.tmp", f"file-{'1' * 24}.json.tmp"]
        for name in (*half, "file-mine", "notes.tmp"):
            (self.folder / name).write_bytes(b"x")
        with Server(*self.flags) as server:
            self.assertEqual([one["id"] for one in server.get("/v1/files", **self.A).json["data"]], ids[7:])
            log = server.stderr()
            for one in ids[:6]:
                self.assertEqual(sum(one in line and "left out" in line for line in log.splitlines()), 1, log)
            left = {one.name for one in self.folder.iterdir()}
            self.assertFalse({*half, ids[6]} & left, left)
            self.assertTrue({"file-mine", "notes.tmp", ids[0], ids[5]} <= left, left)

    def test_what_is_there_counts(self):
        large = IMAGE.read_bytes() + bytes(2 << 20)
        with Server(*self.flags, "--files-disk", "5M") as server:
            self.assertEqual(upload(server, large, **self.A).status, 200)
        with Server(*self.flags, "--files-disk", "5M") as server:
            self.assertEqual(upload(server, large, **self.A).status, 200)
            self.assertEqual(upload(server, large, **self.A).error["code"], "storage_full")
            self.assertEqual(upload(server, b"hello", **self.A).error["code"], "invalid_media")
            self.assertTrue(until(lambda: len(self.names()) == 4), self.names())

    def test_a_directory_that_cannot_be(self):
        with self.assertRaises(RuntimeError) as failure:
            Server("--files-dir", str(IMAGE))
        self.assertIn(IMAGE.name, str(failure.exception))


class Keys(unittest.TestCase):
    def test_files_are_their_key_s_own(self):
        with Server("--api-key", "a", "--api-key", "b") as server:
            mine, theirs = {"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}
            one = upload(server, IMAGE.read_bytes(), "i.png", **mine).json["id"]
            self.assertEqual(len(server.get("/v1/files", **mine).json["data"]), 1)
            self.assertEqual(server.get("/v1/files", **theirs).json["data"], [])
            for method in ("GET", "DELETE"):
                self.assertEqual(server.request(method, f"/v1/files/{one}", None, theirs).status, 404)
            chat = [user({"type": "file", "file": {"file_id": one}}, text_part("What?"))]
            self.assertEqual(server.chat(chat, theirs).error["code"], "media_not_allowed")
            self.assertEqual(server.chat(chat, mine, max_tokens=1).status, 200)
            self.assertEqual(upload(server, IMAGE.read_bytes()).status, 401)


if __name__ == "__main__":
    unittest.main()
