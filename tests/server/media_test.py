#!/usr/bin/env python3
"""Media of strangers: bombs, tables of lies, and children that are stopped, killed or left alone."""
import base64
import os
import pathlib
import signal
import struct
import tempfile
import time
import unittest
import zlib

from serving import VIDEOS, Background, Server, text_part, until, user, video_part

VIDEO = VIDEOS / "long-00.mp4"


def png(width, height, rows=1):
    """The header of so many pixels; few of them follow."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    data = zlib.compress((b"\0" + b"\0" * (width * 3)) * rows, 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def mp4_of_many(frames):
    """An MP4 whose tables promise so many frames, of a byte each, which lie there."""
    def box(kind, *parts):
        data = b"".join(parts)
        return struct.pack(">I", 8 + len(data)) + kind + data
    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    picture = box(b"jpeg", bytes(6), struct.pack(">HHHIII", 1, 0, 0, 0, 0, 0), struct.pack(">HHIIIH", 64, 64, 0x480000, 0x480000, 0, 1),
                  bytes(32), struct.pack(">Hh", 24, -1))
    head = box(b"ftyp", b"isom", struct.pack(">I", 0), b"isom")

    def moov(offset):
        tables = box(b"stbl", box(b"stsd", struct.pack(">II", 0, 1), picture),
                     box(b"stts", struct.pack(">IIII", 0, 1, frames, 1)),
                     box(b"stsc", struct.pack(">IIIII", 0, 1, 1, frames, 1)),
                     box(b"stsz", struct.pack(">III", 0, 1, frames)),
                     box(b"stco", struct.pack(">III", 0, 1, offset)))
        media = box(b"mdia", box(b"mdhd", struct.pack(">IIIIIHH", 0, 0, 0, 30, frames, 0x55C4, 0)),
                    box(b"hdlr", bytes(8), b"vide", bytes(13)),
                    box(b"minf", box(b"vmhd", struct.pack(">IQ", 1, 0)),
                        box(b"dinf", box(b"dref", struct.pack(">II", 0, 1), box(b"url ", struct.pack(">I", 1)))), tables))
        track = box(b"trak", box(b"tkhd", struct.pack(">IIIIII", 3, 0, 0, 1, 0, frames), bytes(16), matrix,
                                 struct.pack(">II", 64 << 16, 64 << 16)), media)
        movie = box(b"mvhd", struct.pack(">IIIIIIHH", 0, 0, 0, 30, frames, 0x10000, 0x100, 0), bytes(8), matrix, bytes(24),
                    struct.pack(">I", 2))
        return box(b"moov", movie, track)
    size = len(head) + len(moov(0))
    return head + moov(size + 8) + box(b"mdat", bytes(frames))


def inline(data, kind="video_url"):
    return {"type": kind, kind: {"url": "data:;base64," + base64.b64encode(data).decode()}}


def stat(pid):
    """Fields of /proc/PID/stat behind the name; None when there is no such process."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return None


def children(pid):
    """Media workers of a server that are no zombies."""
    found = []
    for name in os.listdir("/proc"):
        fields = stat(name) if name.isdigit() else None
        if fields and fields[0] != "Z" and int(fields[1]) == pid:
            try:
                if b"media-worker" in pathlib.Path(f"/proc/{name}/cmdline").read_bytes():
                    found.append(int(name))
            except OSError:
                pass
    return found


def fence(pid):
    """"Seccomp", "NoNewPrivs", .. of /proc/PID/status."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return dict(line.split(":", 1) for line in lines)


class Media(unittest.TestCase):
    flags = ()

    def setUp(self):
        self.server = Server("--media-timeout", "3", *self.flags)

    def tearDown(self):
        self.server.stop()

    def chat(self, *parts, **settings):
        """Of media that are looked at, whatever has been read before."""
        return self.server.chat([user(*parts, text_part("What?"))], **{"max_tokens": 1, "purekv": {"cache": "off"}, **settings})

    def refused(self, answer, code, param="messages[0].content[0].video_url.url"):
        self.assertEqual(answer.status, 400, answer.body)
        self.assertEqual((answer.error["code"], answer.error["param"]), (code, param), answer.error)
        self.assertNotIn("\n", answer.error["message"])
        self.assertNotIn("/proc", answer.error["message"])

    def catch(self, **settings):
        """A chat whose child has been stopped inside its fence: the answer to come, and the child's number."""
        for _ in range(50):
            answer = Background(lambda: self.chat(video_part(VIDEO), **settings))
            while answer.is_alive():
                for pid in children(self.server.process.pid):
                    if fence(pid).get("Seccomp", "").strip() == "2":
                        os.kill(pid, signal.SIGSTOP)
                        if until(lambda: (stat(pid) or "?")[0] == "T", 0.5):
                            return answer, pid
            self.assertEqual(answer.result().status, 200)  # too fast for us
        return self.fail("no child was caught")


class Limits(Media):
    flags = ("--max-source-frames", "100000", "--max-image-pixels", "1000000")

    def test_bombs_are_judged_by_their_heads(self):
        def memory():
            return int(fence(self.server.process.pid)["VmHWM"].split()[0])
        self.chat(video_part(VIDEOS / "short-00.mp4"))
        before = memory()
        image = "messages[0].content[0].image_url.url"
        for width, height, code in ((40000, 40000, "media_limit"), (16384, 16384, "media_limit"), (1001, 1000, "media_limit"),
                                    (0, 5, "invalid_media"), (1000, 1000, None)):
            with self.subTest(width=width, height=height):
                answer = self.chat(inline(png(width, height, min(height, 1000)), "image_url"))
                if code:
                    self.refused(answer, code, image)
                else:
                    self.assertEqual(answer.status, 200, answer.body)
        start = time.monotonic()
        self.refused(self.chat(inline(mp4_of_many(1000000))), "media_limit")
        print(f"a table of 1000000 frames is refused in {time.monotonic() - start:.2f} s; the server grew by {memory() - before} KiB")
        self.assertLess(memory() - before, 64 << 10)
        self.assertEqual(self.chat(video_part(VIDEO)).status, 200)

    def test_media_that_alone_are_too_long_are_not_decoded(self):
        with Server("--max-model-len", "100") as server:
            answer = server.chat([user(video_part(VIDEO), text_part("What?"))], max_tokens=1)
            self.refused(answer, "context_length_exceeded", "messages")


class Children(Media):
    def test_a_child_is_fenced_in(self):
        answer, pid = self.catch()
        status = fence(pid)
        self.assertEqual(status["NoNewPrivs"].strip(), "1")
        self.assertGreaterEqual(int(stat(pid)[16]), 5)  # nice
        limits = pathlib.Path(f"/proc/{pid}/limits").read_text(encoding="utf-8")
        self.assertRegex(limits, r"Max cpu time +3 ")
        self.assertRegex(limits, r"Max address space +\d+ ")
        opened = {int(name): os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
        medium = opened[3]
        # The decoder may have the medium open a second time.
        self.assertTrue({0, 1, 2, 3, 4} <= set(opened) and all(opened[fd] == medium for fd in set(opened) - {0, 1, 2, 3, 4}), opened)
        self.assertTrue(opened[0].startswith("socket:") and opened[1] == opened[2] == "/dev/null", opened)
        self.assertIn("memfd:", opened[4])
        flags = pathlib.Path(f"/proc/{pid}/fdinfo/3").read_text(encoding="utf-8")
        self.assertEqual(int(flags.split("flags:")[1].split()[0], 8) & 3, os.O_RDONLY)
        os.kill(pid, signal.SIGCONT)
        self.assertEqual(answer.result().status, 200)
        self.assertTrue(until(lambda: not children(self.server.process.pid)))

    def test_a_stopped_child_is_a_time_out_of_its_request_alone(self):
        answer, pid = self.catch()
        start = time.monotonic()
        self.assertEqual(self.server.chat("a", max_tokens=1).status, 200)  # meanwhile
        print(f"beside a stopped child an answer takes {time.monotonic() - start:.2f} s")
        self.assertTrue(answer.is_alive())
        self.refused(answer.result(), "media_timeout")
        self.assertIsNone(stat(pid))
        self.assertEqual(self.chat(video_part(VIDEO)).status, 200)

    def test_a_crash_is_an_error_of_its_request_alone(self):
        for number in (signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT):
            answer, pid = self.catch()
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)
            self.refused(answer.result(), "invalid_media")
        self.assertEqual(self.chat(video_part(VIDEO)).status, 200)

    def test_a_stream_that_has_not_begun_has_a_status(self):
        answer, _ = self.catch(stream=True)
        self.refused(answer.result(), "media_timeout")

    def test_a_client_that_goes_takes_its_child_along(self):
        for _ in range(50):
            sock = self.server.start_chat([user(video_part(VIDEO), text_part("What?"))], max_tokens=1, purekv={"cache": "off"})
            caught = until(lambda: children(self.server.process.pid), 1) and children(self.server.process.pid)
            try:
                if caught:
                    os.kill(caught[0], signal.SIGSTOP)
            except ProcessLookupError:
                caught = []
            if caught and until(lambda: (stat(caught[0]) or "?")[0] == "T", 0.5):
                break
            sock.close()
        start = time.monotonic()
        sock.close()
        self.assertTrue(until(lambda: stat(caught[0]) is None, 2))
        print(f"a stopped child is gone {time.monotonic() - start:.2f} s behind its client")

    def test_a_server_that_is_killed_leaves_no_child(self):
        _, pid = self.catch()
        self.server.process.kill()
        self.server.process.wait()
        self.assertTrue(until(lambda: (stat(pid) or "Z")[0] == "Z", 5))


class Queue(Media):
    flags = ("--max-queue", "1")

    def test_who_waits_for_media_waits_in_the_queue(self):
        first, _ = self.catch()
        second = Background(lambda: self.chat(video_part(VIDEO)))
        time.sleep(0.3)
        third = self.chat(video_part(VIDEO))
        self.assertEqual((third.status, third.error["code"]), (429, "queue_full"))
        self.refused(first.result(), "media_timeout")
        answer = second.result().json
        self.assertGreater(answer["usage"]["purekv"]["time"]["queue_s"], 1)
        self.assertGreater(answer["usage"]["purekv"]["time"]["media_s"], 0)

    def test_the_end_does_not_wait_for_media(self):
        first, _ = self.catch()
        second = Background(lambda: self.chat(video_part(VIDEO)))
        time.sleep(0.3)
        start = time.monotonic()
        self.server.signal()
        for one in (first, second):
            self.assertEqual((one.result().status, one.result().error["code"]), (503, "draining"))
        self.assertEqual(self.server.wait(), 0)
        self.assertLess(time.monotonic() - start, 2)


class Late(Media):
    flags = ("--queue-timeout", "1")

    def test_who_waits_too_long(self):
        first, _ = self.catch()
        answer = self.chat(video_part(VIDEO))
        self.assertEqual((answer.status, answer.error["code"]), (504, "queue_timeout"))
        self.refused(first.result(), "media_timeout")


    def test_what_has_been_read_before_waits_for_no_media(self):
        for name in ("short-00.mp4", "short-00.mp4"):
            kept = self.chat(video_part(VIDEOS / name), purekv={})
        self.assertEqual(kept.json["usage"]["purekv"]["cache"], "prefix")
        first, _ = self.catch()
        answer = self.chat(video_part(VIDEOS / "short-00.mp4"), purekv={}).json["usage"]["purekv"]
        self.assertTrue(first.is_alive())
        self.assertEqual((answer["cache"], answer["time"]["media_s"]), ("prefix", 0))
        self.refused(first.result(), "media_timeout")


class Workers(Media):
    flags = ("--media-workers", "2")

    def test_a_second_worker_goes_on_beside_a_stopped_one(self):
        first, _ = self.catch()
        self.assertEqual(self.chat(video_part(VIDEO)).status, 200)
        self.assertTrue(first.is_alive())
        self.refused(first.result(), "media_timeout")


if __name__ == "__main__":
    unittest.main()
