"""S6: mixed requests, many of them cancelled, stay within the memory that was set, and give it back."""
import time

from common import MIB, PREFIXES, Ask, Crowd, Server, Watcher, accounted, delete_all, draw, free, kv_bytes, metrics, require, resident, until_settled, value

BUDGET = 64 * MIB
REQUESTS, CANCELLED = 500, 200


def run(randomly, _):
    gone = set(randomly.sample(range(REQUESTS), CANCELLED))
    with Server("--cache-memory", str(BUDGET), "--max-queue", "600", "--media-workers", "2", "--session-ttl", "5") as server:
        idle = resident(server)
        most = {"accounted": 0, "resident": 0, "polls": 0}

        def look():
            now = metrics(server)
            held, whole = accounted(now), resident(server)
            require(held <= BUDGET, "accounted", held, "bytes of", BUDGET, now["purekv_kv_bytes"])
            require(value(now, "purekv_reservation_overruns_total") == 0, "a request took more than was set apart for it")
            require(whole <= idle + BUDGET + 256 * MIB, "resident", whole, "bytes, idle", idle, "budget", BUDGET)
            most.update(accounted=max(held, most["accounted"]), resident=max(whole, most["resident"]), polls=most["polls"] + 1)

        def work(nth, own):
            if own.random() < 0.05:
                prefixes = server.get(PREFIXES).json["data"]
                if prefixes:
                    server.request("DELETE", f"{PREFIXES}/{own.choice(prefixes)['id']}")
            asked = Ask(server, (drawn := draw(own, server))[1], drawn[0])
            if nth in gone:
                asked.gone(own.choice([0, 0.01, 0.05, 0.2, 0.5, 1]) * own.random())
                return
            status, body = asked.answer()
            # A prefix may have been deleted since it was listed; a small memory may have no room.
            require(status in (200, 400, 404), status, body[:300])

        start = time.monotonic()
        with Watcher(look):
            Crowd(REQUESTS, 8, randomly, work).wait()
            until_settled(lambda: free(server), "memory set apart for requests")
        seconds = time.monotonic() - start
        delete_all(server)
        # What the tower made of media goes with their prefixes; what was asked for under "prompt" has none.
        until_settled(lambda: (held := kv_bytes(metrics(server)))["prefix"] + held["session"] == 0, "prefixes and sessions")
        time.sleep(1)
        left = resident(server) - idle
        figure = (f"{REQUESTS} requests, {CANCELLED} cancelled, in {seconds:.0f} s: accounted up to {most['accounted'] / MIB:.1f} of "
                  f"{BUDGET / MIB:.0f} MiB in {most['polls']} polls, "
                  f"resident up to idle + {(most['resident'] - idle) / MIB:.0f} MiB; behind DELETE of all idle + {left / MIB:.0f} MiB")
        require(left <= 32 * MIB, figure)
        return figure
