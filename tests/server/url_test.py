#!/usr/bin/env python3
"""Media by URL, as lists of frames, by number of frames and by name: a host of files on this machine says what is fetched."""
import base64
import http.server
import os
import socket
import tempfile
import threading
import time
import unittest

from serving import ROOT, VIDEOS, Background, Server, data_url, text_part, until, user, video_part

VIDEO, OTHER, IMAGE = VIDEOS / "short-03.mp4", VIDEOS / "short-00.mp4", ROOT / "tests/data/reference/media/street.png"
PRIVATE = ("--allowed-media-domains", "127.0.0.1,*.localhost", "--media-allow-private-addresses")


class FileHost:
    """Answers GET by `answers`, path to a function of the handler; says what was asked for."""

    def __init__(self):
        host, self.asked, self.over = self, [], threading.Event()
        self.answers = {"/video": lambda one: one.send(VIDEO.read_bytes()), "/image": lambda one: one.send(IMAGE.read_bytes()),
                        "/text": lambda one: one.send(b"hello"), "/endless": lambda one: one.endless(b"x" * 65536, 0),
                        "/stalls": lambda one: one.endless(b"x", 0.05), "/silent": lambda one: host.over.wait(60),
                        "/slow": lambda one: (time.sleep(1), one.send(VIDEO.read_bytes()))}

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                host.asked.append((self.path, self.headers))
                answer = host.answers.get(self.path)
                try:
                    answer(self) if answer else self.send_error(404, "SECRET")
                except ConnectionError:
                    self.close_connection = True

            def send(self, data):
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def redirect(self, to):
                self.send_response(302)
                self.send_header("Location", to)
                self.end_headers()

            def endless(self, piece, pause):
                self.send_response(200)
                self.end_headers()
                while not host.over.wait(pause):
                    self.wfile.write(piece)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.port = self.server.server_address[1]

    def url(self, path, host="127.0.0.1"):
        return f"http://{host}:{self.port}{path}"

    def redirect(self, path, to):
        self.answers[path] = lambda one: one.redirect(to)
        return self.url(path)

    def close(self):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


def url_part(url, kind="video_url", **own):
    return {"type": kind, kind: {"url": url}, **own}


class Urls(unittest.TestCase):
    flags = PRIVATE

    @classmethod
    def setUpClass(cls):
        cls.host = FileHost()
        cls.server = Server("--max-media-bytes", "4M", "--fetch-timeout", "2", *cls.flags)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.host.close()

    def chat(self, *parts, headers=None, server=None, **settings):
        settings = {"max_tokens": 24, "purekv": {"cache": "off"}, **settings}
        return (server or self.server).chat([user(*parts, text_part("Describe the video."))], headers, **settings)

    def text(self, *parts, **settings):
        answer = self.chat(*parts, **settings)
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json["choices"][0]["message"]["content"]

    def refused(self, answer, code, param="messages[0].content[0].video_url.url", status=400):
        self.assertEqual((answer.status, answer.error["code"], answer.error["param"]), (status, code, param), answer.body)
        for secret in ("\n", str(self.host.port), "127.0.0.1", "SECRET", "/proc", "/tmp"):
            self.assertNotIn(secret, answer.error["message"])
        return answer.error["message"]

    def fetch_fails(self, path, code="media_fetch_failed"):
        return self.refused(self.chat(url_part(self.host.url(path))), code)


class Fetched(Urls):
    def test_a_url_is_what_lies_there(self):
        expected = self.text(video_part(VIDEO))
        answer = self.chat(url_part(self.host.url("/video"))).json
        self.assertEqual(answer["choices"][0]["message"]["content"], expected)
        self.assertGreater(answer["usage"]["purekv"]["time"]["fetch_s"], 0)
        self.assertEqual(self.chat(video_part(VIDEO)).json["usage"]["purekv"]["time"]["fetch_s"], 0)
        self.assertEqual(self.text(url_part(self.host.redirect("/moved", "/video"))), expected)
        two = self.chat(url_part(self.host.url("/image"), "image_url"), url_part(self.host.url("/video")), video_part(OTHER))
        self.assertEqual([one["kind"] for one in two.json["usage"]["purekv"]["media"]], ["image", "video", "video"])
        _, headers = self.host.asked[-1]
        self.assertFalse({"authorization", "cookie", "referer"} & {name.lower() for name in headers})
        self.assertNotIn(str(self.host.port), self.server.stderr())

    def test_what_was_fetched_is_read_once(self):
        for _ in range(2):
            answer = self.chat(url_part(self.host.url("/video")), purekv={}).json["usage"]["purekv"]
        self.assertEqual(answer["cache"], "prefix")
        # By its bytes, wherever they come from.
        self.assertEqual(self.chat(video_part(VIDEO), purekv={}).json["usage"]["purekv"]["prefix"], answer["prefix"])

    def test_what_goes_wrong(self):
        self.assertIn("HTTP status 404", self.fetch_fails("/nothing"))
        self.fetch_fails("/text", "invalid_media")
        self.fetch_fails("/image", "invalid_media")
        self.fetch_fails("/endless", "media_limit")
        start = time.monotonic()
        self.assertIn("within 2 s", self.fetch_fails("/stalls"))
        self.assertIn("within 2 s", self.fetch_fails("/silent"))
        self.assertLess(time.monotonic() - start, 20)
        for i in range(5):
            self.host.redirect(f"/chain{i}", f"/chain{i + 1}")
        before = len(self.host.asked)
        self.assertIn("redirects", self.fetch_fails("/chain0"))
        self.assertEqual(len(self.host.asked) - before, 4)
        closed = socket.create_server(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        closed.close()
        self.assertIn("reached", self.refused(self.chat(url_part(f"http://127.0.0.1:{port}/")), "media_fetch_failed"))

    def test_one_line_for_all_that_is_not_allowed(self):
        lines = {self.refused(self.chat(url_part(url)), "media_not_allowed") for url in (
            f"http://localhost:{self.host.port}/video", f"http://user:pass@127.0.0.1:{self.host.port}/video", "http://example.org/a.mp4",
            f"http://[::1]:{self.host.port}/video", f"ftp://127.0.0.1:{self.host.port}/video", "file:///etc/passwd", "gopher://127.0.0.1/",
            f"http://127.0.0.1:{self.host.port}\\@example.org/", f"http://127.0.0.1\t:{self.host.port}/video", "http://", "relative.mp4",
            self.host.redirect("/r1", "file:///etc/passwd"), self.host.redirect("/r2", "http://169.254.169.254/latest/meta-data/"),
            self.host.redirect("/r3", f"http://localhost:{self.host.port}/video"))}
        self.assertEqual(len(lines), 1, lines)
        self.assertNotIn("/video", [path for path, _ in self.host.asked[-3:]])

    def test_others_are_answered_meanwhile_and_a_client_that_goes_ends_its_fetch(self):
        ended = threading.Event()

        def wait(one):
            one.connection.settimeout(20)
            one.connection.recv(1)  # until it is closed
            ended.set()
        self.host.answers["/waits"] = wait
        with Server("--fetch-timeout", "30", *PRIVATE) as server:
            descriptors = server.descriptors()
            sock = server.start_chat([user(url_part(self.host.url("/waits")), text_part("What?"))])
            self.assertTrue(until(lambda: self.host.asked[-1:] and self.host.asked[-1][0] == "/waits"))
            self.assertEqual(self.chat(video_part(VIDEO), server=server).status, 200)
            start = time.monotonic()
            sock.close()
            self.assertTrue(ended.wait(10))
            print(f"a fetch ends {time.monotonic() - start:.3f} s behind its client")
            self.assertTrue(until(lambda: server.descriptors() <= descriptors + 1), server.descriptors())

    def test_what_waits_to_be_fetched_waits_in_the_queue(self):
        with Server("--max-queue", "2", "--queue-timeout", "1", "--fetch-timeout", "4", *PRIVATE) as server:
            before = len(self.host.asked)
            running = []
            for i in range(4):
                running.append(Background(lambda: self.chat(url_part(self.host.url("/silent")), server=server)))
                self.assertTrue(until(lambda: len(self.host.asked) > before + i))
            waiting = [Background(lambda: self.chat(url_part(self.host.url("/video")), server=server)) for _ in range(2)]
            time.sleep(0.3)
            self.refused(self.chat(url_part(self.host.url("/video")), server=server), "queue_full", None, 429)
            for one in waiting:
                self.refused(one.result(), "queue_timeout", None, 504)
            self.assertEqual(self.chat(video_part(VIDEO), server=server).status, 200)
            for one in running:
                self.refused(one.result(), "media_fetch_failed")
            start = time.monotonic()
            last = Background(lambda: self.chat(url_part(self.host.url("/silent")), server=server))
            time.sleep(0.3)
            server.signal()
            self.assertEqual((last.result().status, last.result().error["code"]), (503, "draining"))
            self.assertEqual(server.wait(), 0)
            self.assertLess(time.monotonic() - start, 3)

    def test_a_hundred_bodies(self):
        with Server("--max-media-bytes", "64M", "--max-queue", "200", *PRIVATE) as server:
            data = bytes(8 << 20)
            self.host.answers["/large"] = lambda one: one.send(data)
            descriptors = server.descriptors()
            answers = [Background(lambda: self.chat(url_part(self.host.url("/large")), server=server)) for _ in range(100)]
            for one in answers:
                self.refused(one.result(), "invalid_media")
            self.assertTrue(until(lambda: server.descriptors() <= descriptors + 2), server.descriptors())
            self.assertEqual(self.chat(video_part(VIDEO), server=server).status, 200)


class Closed(Urls):
    """Names are allowed, addresses of this machine and its networks are not: nothing is ever dialled."""
    flags = ("--allowed-media-domains", "localhost,127.0.0.1,169.254.169.254,10.0.0.1,[::1],[::ffff:127.0.0.1]")

    def test_no_connection_is_made(self):
        listener = None
        try:  # the port that would be taken, where this machine lets us have it
            listener = socket.create_server(("127.0.0.1", 80))
            listener.setblocking(False)
        except OSError:
            print("port 80 cannot be had here")
        try:
            lines = {self.refused(self.chat(url_part(url)), "media_not_allowed") for url in (
                "http://127.0.0.1/", "http://localhost/", "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/",
                "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "https://localhost/",
                self.host.url("/video"), self.host.url("/video", "localhost"))}
            self.assertEqual(len(lines), 1, lines)
            if listener:
                self.assertRaises(BlockingIOError, listener.accept)
            self.assertEqual(self.host.asked, [])
        finally:
            if listener:
                listener.close()


class Shut(Urls):
    flags = ()

    def test_without_domains_nothing_is_fetched(self):
        self.refused(self.chat(url_part(self.host.url("/video"))), "media_not_allowed")
        self.refused(self.chat(url_part("https://example.org/a.mp4")), "media_not_allowed")
        self.assertEqual(self.host.asked, [])

    def test_flags_that_say_nothing(self):
        for flags in (("--allowed-media-domains", "http://a.org"), ("--allowed-media-domains", "*"), ("--allowed-media-domains", "a.org:80"),
                      ("--media-allow-private-addresses",), ("--fetch-timeout", "0")):
            with self.assertRaises(RuntimeError) as failure:
                Server(*flags)
            self.assertIn(flags[0], str(failure.exception))


class Frames(Urls):
    flags = ("--max-frames", "16")

    def media(self, *parts, **settings):
        answer = self.chat(*parts, max_tokens=1, **settings)
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json["usage"]["purekv"]["media"][0]

    def test_a_number_of_frames(self):
        for count in (1, 2, 5, 8, 12, 16):
            medium = self.media(video_part(VIDEO), media_io_kwargs={"video": {"num_frames": count}})
            count = min(count, 12)  # all that it has
            self.assertEqual((medium["frames"], medium["grid"][0]), (count, (count + 1) // 2))
        by_rate = self.media(video_part(VIDEO))
        self.assertEqual(self.media(video_part(VIDEO), media_io_kwargs={"video": {"num_frames": -1}}), by_rate)
        self.assertEqual(self.media(video_part(VIDEO, num_frames=-1), media_io_kwargs={"video": {"num_frames": 3}}), by_rate)
        self.assertEqual(self.media(video_part(VIDEO, num_frames=6), media_io_kwargs={"video": {"num_frames": 3}})["frames"], 6)
        # The lower of the two, as vLLM has it; and never more than is there, or than the request's own limit.
        self.assertLess(self.media(video_part(VIDEO, num_frames=16, fps=0.5))["frames"], 16)
        self.assertEqual(self.media(video_part(VIDEO, num_frames=16, max_frames=4))["frames"], 4)
        image = self.media(url_part(data_url(IMAGE, "image/png"), "image_url"), media_io_kwargs={"video": {"num_frames": 5}})
        self.assertEqual(image["frames"], 1)
        for value, code in ((17, "media_limit"), (0, "invalid_value"), (-2, "invalid_value"), ("8", "invalid_value")):
            answer = self.chat(video_part(VIDEO), media_io_kwargs={"video": {"num_frames": value}})
            self.refused(answer, code, "media_io_kwargs.video.num_frames")
        # What an image cannot be asked, where it is asked of this image.
        for setting in ({"video_start": 1}, {"fps": 1}, {"num_frames": 2}):
            answer = self.chat({**url_part(data_url(IMAGE, "image/png"), "image_url"), "purekv": setting})
            self.refused(answer, "invalid_value", f"messages[0].content[0].purekv.{next(iter(setting))}")

    def frames_url(self, *pictures):
        return "data:video/jpeg;base64," + ",".join(base64.b64encode(one).decode() for one in pictures)

    def test_a_list_of_frames(self):
        picture = IMAGE.read_bytes()
        medium = self.media(url_part(self.frames_url(*[picture] * 5)))
        self.assertEqual((medium["kind"], medium["frames"], medium["grid"][0], medium["sample_fps"]), ("video", 5, 3, 2))
        # Taken as they are, whatever is asked for of videos.
        self.assertEqual(self.media(url_part(self.frames_url(*[picture] * 5)), media_io_kwargs={"video": {"num_frames": 2}}), medium)
        self.assertEqual(self.media(url_part(self.frames_url(picture)))["frames"], 1)
        tower = (ROOT / "tests/data/reference/media/tower.png").read_bytes()
        self.assertIn("16", self.refused(self.chat(url_part(self.frames_url(*[picture] * 17))), "media_limit"))
        for bad, word in (([picture, tower], "frame 2"), ([picture, b""], "frame 2"), ([b"hello"], "frame 1"), ([VIDEO.read_bytes()], "frame 1"),
                          ([picture, picture[:2000]], "frame 2")):
            self.assertIn(word, self.refused(self.chat(url_part(self.frames_url(*bad))), "invalid_media"))
        for text in ("data:video/jpeg;base64,", "data:video/jpeg;base64,AAA", "data:video/jpeg;base64,////,=A==", self.frames_url(picture) + ","):
            self.refused(self.chat(url_part(text)), "invalid_media")
        # What it is goes by the label alone of videos.
        self.refused(self.chat(url_part(self.frames_url(picture, picture), "image_url")), "invalid_media", "messages[0].content[0].image_url.url")
        for _ in range(2):
            again = self.chat(url_part(self.frames_url(*[picture] * 4)), purekv={}).json["usage"]["purekv"]
        self.assertEqual(again["cache"], "prefix")
        other = self.chat(url_part(self.frames_url(*[picture] * 3)), purekv={}).json["usage"]["purekv"]
        self.assertNotEqual(other["prefix"], again["prefix"])


    def test_on_disk_they_are_known_as_what_they_are(self):
        picture = IMAGE.read_bytes()
        asked = [(url_part(self.frames_url(*[picture] * 4)), {}), (video_part(VIDEO), {"video": {"num_frames": 5}})]
        with tempfile.TemporaryDirectory() as folder:
            first = []
            for expected in ("none", "disk"):
                with Server("--cache-dir", folder, "--cache-write-through") as server:
                    for i, (part, io) in enumerate(asked):
                        answer = self.chat(part, server=server, purekv={}, media_io_kwargs=io).json
                        usage = answer["usage"]["purekv"]
                        self.assertEqual(usage["cache"], expected)
                        first.append((usage["prefix"], answer["choices"][0]["message"]["content"], usage["media"]))
                        self.assertEqual(first[i], first[-1])


class Names(Urls):
    flags = ("--api-key", "a", "--api-key", "b", "--files-disk", "3M", *PRIVATE)
    A, B = {"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}

    def named(self, name, source, kind="video_url"):
        return {"type": kind, "uuid": name, kind: source}

    def test_a_name_stands_for_the_bytes(self):
        first = self.text(self.named("film", {"url": data_url(VIDEO)}), headers=self.A)
        for source in ({"url": None}, None, {}):
            self.assertEqual(self.text(self.named("film", source), headers=self.A), first)
        self.assertEqual(self.text({"type": "video_url", "uuid": "film"}, headers=self.A), first)
        # The same bytes again, from elsewhere; and others.
        self.assertEqual(self.text(self.named("film", {"url": self.host.url("/video")}), headers=self.A), first)
        for url in (data_url(OTHER), data_url(IMAGE, "image/png")):
            kind = "image_url" if "png" in url else "video_url"
            answer = self.chat(self.named("film", {"url": url}, kind), headers=self.A)
            self.refused(answer, "conflict", "messages[0].content[0].uuid", 409)
            self.assertEqual(answer.headers["x-should-retry"], "false")
        self.assertEqual(self.text(self.named("film", None), headers=self.A), first)
        self.refused(self.chat(self.named("film", None, "image_url"), headers=self.A), "invalid_media", "messages[0].content[0].image_url")
        # Of one's own.
        unknown = "messages[0].content[0].uuid"
        self.assertIn("send it again", self.refused(self.chat(self.named("film", None), headers=self.B), "invalid_media", unknown))
        other = self.text(self.named("film", {"url": data_url(OTHER)}), headers=self.B)
        self.assertEqual(self.text(self.named("film", None), headers=self.B), other)
        self.assertEqual(self.text(self.named("film", None), headers=self.A), first)

    def test_frames_have_names_too(self):
        picture = base64.b64encode(IMAGE.read_bytes()).decode()
        url = f"data:video/jpeg;base64,{picture},{picture},{picture}"
        counts = [self.chat(self.named("list", source), headers=self.A).json["usage"]["purekv"]["media"][0]["frames"]
                  for source in ({"url": url}, {"url": None})]
        self.assertEqual(counts, [3, 3])

    def test_what_a_name_may_be(self):
        for name in ("", "x" * 257, 5, [1]):
            answer = self.chat(self.named(name, None), headers=self.A)
            self.assertEqual((answer.status, answer.error["code"]), (400, "invalid_value"), answer.body)
        self.refused(self.chat({"type": "video_url", "video_url": {"url": None}}, headers=self.A), "invalid_value", "messages[0].content[0].video_url.url")

    def test_the_oldest_go(self):
        def picture(i):
            return "data:image/png;base64," + base64.b64encode(IMAGE.read_bytes() + bytes([i]) * (900 << 10)).decode()

        def ask(i, source):
            return self.chat(self.named(f"p{i}", source, "image_url"), headers=self.A, max_tokens=1)
        for i in range(3):
            self.assertEqual(ask(i, {"url": picture(i)}).status, 200)
        self.assertEqual(ask(0, None).status, 200)  # used: now 1 is the oldest
        self.assertEqual(ask(3, {"url": picture(3)}).status, 200)
        self.refused(ask(1, None), "invalid_media", "messages[0].content[0].uuid")
        for i in (0, 2, 3):
            self.assertEqual(ask(i, None).status, 200, i)


class Local(Urls):
    def test_paths_that_are_no_files(self):
        with tempfile.TemporaryDirectory() as outside, tempfile.TemporaryDirectory() as folder:
            os.symlink(VIDEO, f"{folder}/out.mp4")
            os.mkfifo(f"{folder}/pipe.mp4")
            os.mkdir(f"{folder}/folder.mp4")
            with open(f"{folder}/in.mp4", "wb") as file:
                file.write(VIDEO.read_bytes())
            os.symlink("in.mp4", f"{folder}/link.mp4")
            with open(f"{outside}/x.mp4", "wb") as file:
                file.write(VIDEO.read_bytes())
            with Server("--allowed-local-media-path", folder) as server:
                for good in ("in.mp4", "link.mp4", "folder.mp4/../in.mp4"):
                    self.assertEqual(self.chat(url_part(f"file://{folder}/{good}"), server=server).status, 200, good)
                lines = {self.refused(self.chat(url_part(url), server=server), "media_not_allowed") for url in (
                    f"file://{folder}/out.mp4", f"file://{folder}/pipe.mp4", f"file://{folder}/folder.mp4", f"file://{folder}/none.mp4",
                    f"file://{outside}/x.mp4", f"file://{folder}/../{os.path.basename(outside)}/x.mp4", f"file://host{folder}/in.mp4",
                    f"file://{folder}/%2e%2e/{os.path.basename(outside)}/x.mp4", f"file://{folder}/in.mp4%00", "file:///dev/zero")}
                self.assertEqual(len(lines), 1, lines)


if __name__ == "__main__":
    unittest.main()
