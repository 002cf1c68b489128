"""S11: kill -9 under load, again and again: back at once, what was finished is there, and nothing damaged is served."""
import contextlib
import pathlib
import tempfile
import time

from common import CHATS, LONG, MEDIUM, PREFIXES, SHORT, Ask, Crowd, Server, chat, require, text_part, user, video
from serving import until

KILLS, ALLOWED_S = 20, 2.0
VIDEOS = [*SHORT[:6], *MEDIUM[:3], *LONG[:2]]
SETTINGS = [{}, {"policy": "purekv", "budget": 0.2}, {"policy": "snapkv", "budget": 0.4}]


def about(path, own, **more):
    return chat(video(path), text_part("What moves?"), max_tokens=16, purekv={**own, **more})


def said(answer):
    require(answer.status == 200, "a question was told", answer.status, answer.body[:300])
    return answer.json["choices"][0]["message"]["content"]


def finished(directory):
    """Prefixes whose files are whole: the record is renamed last."""
    return {one.stem for one in pathlib.Path(directory).glob("pfx-*.json")}


def half(directory):
    """Whether a prefix is being written: under another name still, or without its record."""
    names = {one.name for one in pathlib.Path(directory).iterdir()}
    return any(".tmp." in name or name.endswith(".pkv") and name[:-4] + ".json" not in names for name in names)


def run(randomly, _):
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as servers:
        flags = ("--cache-dir", directory, "--cache-memory", "24M", "--cache-write-through", "--max-queue", "100")
        start = time.monotonic()
        server = servers.enter_context(Server(*flags))
        load = time.monotonic() - start
        truth = {(path, i): said(server.post(about(path, own, cache="off"))) for path in VIDEOS for i, own in enumerate(SETTINGS)}
        slowest, most, hits, disk, damaged, cut = 0.0, 0, 0, 0, 0, 0
        for nth in range(KILLS):
            def work(_, own, served=server):
                path, settings = own.choice(VIDEOS), own.choice(SETTINGS)
                try:
                    if own.random() < 0.3:
                        ahead = {"model": "demo", "messages": [user(video(path))], "purekv": {**settings, "cache": own.choice(["use", "refresh"])}}
                        Ask(served, ahead, PREFIXES).answer()
                    else:
                        Ask(served, about(path, settings, cache=own.choice(["use", "refresh"])), CHATS).answer()
                except OSError:
                    pass  # killed
                except Exception as problem:  # an answer that was cut
                    require(type(problem).__module__ == "http.client", repr(problem))
            crowd = Crowd(10000, 6, randomly, work)
            time.sleep(randomly.uniform(0.05, 1.2))
            if nth % 2:  # the others come at any moment
                until(lambda: half(directory), 5)
            before = finished(directory)
            server.process.kill()
            server.process.wait()
            crowd.count.clear()
            crowd.wait()
            cut += half(directory)
            start = time.monotonic()
            server = servers.enter_context(Server(*flags))
            slowest = max(slowest, time.monotonic() - start)
            require(slowest <= load + ALLOWED_S, f"back after {slowest:.2f} s, loading alone takes {load:.2f} s")
            there = {one["id"] for one in server.get(PREFIXES).json["data"]}
            # What had no room any more may have gone while it was looked at.
            require(before & finished(directory) <= there, "finished prefixes are gone:", before - there)
            require(not half(directory), "half a prefix is left:", sorted(one.name for one in pathlib.Path(directory).iterdir()))
            most = max(most, len(there))
            for path in randomly.sample(VIDEOS, 4):
                for i, own in enumerate(SETTINGS):
                    answer = server.post(about(path, own))
                    require(said(answer) == truth[path, i], path.name, own, "is answered as", said(answer), "not", truth[path, i])
                    cache = answer.json["usage"]["purekv"]["cache"]
                    hits, disk = hits + (cache in ("prefix", "disk")), disk + (cache == "disk")
            damaged += server.stderr().count("(removed)")
        server.signal()
        require(server.wait() == 0, "the end")
        require(hits > 0 and disk > 0 and cut > 0, "nothing was found again, or no kill came while a file was written")
        require(damaged == 0, damaged, "damaged files were found: a file is renamed when it is whole")
        return (f"{KILLS} times under load: back within {slowest:.2f} s (loading alone {load:.2f} s), up to {most} prefixes there, "
                f"{cut} kills left half a file, which went; {KILLS * 12} answers equal those without a cache, {hits} of them from prefixes, {disk} of those read back")
