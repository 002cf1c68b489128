#!/usr/bin/env python3
"""The bars of `purekv serve` that look for leaks, hangs and crashes, one after another; each prints its figure in one line.
scripts/server_bars.sh builds what they need and calls this. PUREKV_PATIENCE=20: the program is one of a sanitizer, and slow; times may be so
many times longer, and what is a median is taken of fewer."""
import argparse
import importlib
import os
import random
import tempfile
import time
import traceback

from common import Missed, serving

BARS = {"S6": "memory", "S7": "cancel", "S8": "slow", "S9": "garbage", "S10": "bombs", "S11": "kills", "S12": "keys", "S13": "drain", "S14": "soak"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bars", nargs="*", metavar="BAR", help="of " + " ".join(BARS) + " (default: all of them)")
    parser.add_argument("--soak", type=float, default=60, metavar="S", help="seconds of S14 (default 60; the bar's own are 1800)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    unknown = set(options.bars) - set(BARS)
    if unknown:
        parser.error(f"{' '.join(sorted(unknown))}: not among {' '.join(BARS)}")
    print(f"seed {options.seed}", flush=True)
    missed = []
    for bar in options.bars or BARS:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="purekv-bars-") as temporary:
            serving.CLEAN["TMPDIR"] = temporary
            try:
                line = "held: " + importlib.import_module(BARS[bar]).run(random.Random(f"{options.seed} {bar}"), options)
            except Missed as problem:
                line = f"MISSED: {problem}"
            except Exception:
                line = "MISSED: " + traceback.format_exc()
            if left := os.listdir(temporary):
                line = f"MISSED: left in $TMPDIR: {' '.join(left)} ({line})"
        if line.startswith("MISSED"):
            missed.append(bar)
        print(f"{bar} {line} [{time.monotonic() - start:.0f} s]", flush=True)
    if missed:
        raise SystemExit("missed: " + " ".join(missed))


if __name__ == "__main__":
    main()
