"""What all torture loops share: running the program under limits, judging how it ended, and drawing cases from a seed.

A loop hands `run_loop` a function that works on one case. Case i of seed s draws from a generator of its own, so that
`--seed s --only i` is that case again, whatever ran before it. What an oracle finds is a `Failure`: it is printed with
the command line, and the case's folder (mutated files, outputs) stays.
"""
import argparse
import collections
import concurrent.futures
import dataclasses
import os
import pathlib
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

SOURCE = pathlib.Path(__file__).resolve().parents[2]
GIB = 1 << 30
# Peak resident set of one run; what the loops feed it is tiny. The address space is capped above it, so that an
# allocation of a terabyte fails in the program instead of taking the machine down.
MOST_RESIDENT = 3 * GIB // 2
MOST_ADDRESSES = 6 * GIB
LIMIT_S = 20.0
# A sanitizer's build is slower by about that much, and its shadow memory forbids a cap on addresses.
SANITIZER_SLOWNESS = 8
SANITIZER_TEXTS = (b"AddressSanitizer", b"LeakSanitizer", b"ThreadSanitizer", b"MemorySanitizer", b"runtime error:")


class Failure(Exception):
    """Something that must not be. `outcomes`: the runs it was seen in, the guilty one last."""

    def __init__(self, message, *outcomes):
        super().__init__(message)
        self.outcomes = outcomes


def quoted(word):
    """A word for Bash, on one line and in ASCII where quoting is needed: bytes that are no UTF-8 included."""
    if shlex.quote(word) == word or word.isprintable():
        return shlex.quote(word)
    escaped = "".join(chr(byte) if 0x20 <= byte < 0x7F and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{escaped}'"


@dataclasses.dataclass
class Outcome:
    """How one run ended. status: the exit status, or minus the number of the signal that killed it."""
    argv: list
    environment: dict
    status: int
    timed_out: bool
    out: bytes
    err: bytes
    seconds: float
    peak_rss: int

    def command(self):
        settings = [f"{name}={quoted(value)}" for name, value in sorted(self.environment.items())]
        return " ".join(settings + [quoted(word) for word in self.argv])

    def error_line(self):
        """The one line that says why, as text. Warnings may stand before it."""
        return self.err.decode("utf-8", "replace").rstrip("\n").rsplit("\n", 1)[-1]


class Running:
    """A started process. Output goes to files without a name, so that no pipe can fill up."""

    def __init__(self, argv, environment, cwd, slowness):
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self._argv, self._environment, self._slowness = argv, environment, slowness
        self._lock, self._reaped = threading.Lock(), False
        # Nothing of the tester's own settings; threads that wait sleep, since several programs share the cores.
        settings = {name: value for name, value in os.environ.items() if not name.startswith("PUREKV_")}
        settings.update({"OMP_WAIT_POLICY": "passive"}, **environment)
        self._start = time.monotonic()
        self._process = subprocess.Popen([os.fsencode(word) for word in argv], stdin=subprocess.DEVNULL, stdout=self._out,
                                         stderr=self._err, cwd=cwd, env=settings, start_new_session=True)

    def signal(self, number):
        """Sends a signal. False: the process has ended already."""
        with self._lock:
            if self._reaped:
                return False
            os.kill(self._process.pid, number)
            return True

    def ended(self):
        """Whether the process has ended, without waiting and without reaping it."""
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return found is not None

    def wait(self, limit_s=LIMIT_S):
        """Waits for the end; kills after the limit (stretched for a sanitizer's build)."""
        expired = threading.Event()

        def kill():
            if self.signal(signal.SIGKILL):
                expired.set()

        timer = threading.Timer(limit_s * self._slowness, kill)
        timer.daemon = True
        timer.start()
        # First without reaping: from then on no signal may go to a number that another process could get.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._reaped = True
            _, status, usage = os.wait4(self._process.pid, 0)
        timer.cancel()
        seconds = time.monotonic() - self._start
        self._process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read())
            file.close()
        return Outcome(self._argv, self._environment, self._process.returncode, expired.is_set(), *texts, seconds,
                       usage.ru_maxrss * 1024)


class Program:
    """The purekv program, and a count of how its runs ended."""

    def __init__(self, path):
        self.path = pathlib.Path(path).resolve()
        if not self.path.is_file():
            sys.exit(f"{self.path}: no such program; build it, or name it with --program")
        contents = self.path.read_bytes()
        self.sanitized = b"__asan_init" in contents or b"__tsan_init" in contents or b"__ubsan_handle" in contents
        self.slowness = SANITIZER_SLOWNESS if self.sanitized else 1
        self.endings = collections.Counter()
        self._lock = threading.Lock()

    def start(self, arguments, environment=None, cwd=None):
        argv = [str(self.path)] + [str(word) for word in arguments]
        return Running(argv, dict(environment or {}), cwd, self.slowness)

    def finish(self, running, limit_s=LIMIT_S):
        """Waits and judges what holds for every run whatsoever (`check_sane`)."""
        outcome = running.wait(limit_s)
        with self._lock:
            self.endings[f"exit {outcome.status}" if outcome.status >= 0 else f"signal {-outcome.status}"] += 1
        check_sane(outcome, self.sanitized)
        return outcome

    def run(self, arguments, environment=None, cwd=None, limit_s=LIMIT_S):
        outcome = self.finish(self.start(arguments, environment, cwd), limit_s)
        if outcome.status < 0:
            raise Failure(f"killed by signal {signal.Signals(-outcome.status).name}", outcome)
        return outcome

    def must(self, arguments, **more):
        """A run that has to succeed: what the cases are made from."""
        outcome = self.run(arguments, **more)
        if outcome.status != 0:
            raise Failure(f"exit {outcome.status} where the run has to succeed", outcome)
        return outcome


def check_sane(outcome, sanitized=False):
    """No hang, no broken assumption, no finding of a sanitizer, bounded memory. Deaths by a signal are the caller's."""
    if outcome.timed_out:
        raise Failure(f"still running after {outcome.seconds:.1f} s", outcome)
    if b"broken assumption" in outcome.err:
        raise Failure("a broken assumption", outcome)
    for text in SANITIZER_TEXTS:
        if text in outcome.err:
            raise Failure(f"{text.decode()} found something", outcome)
    if outcome.peak_rss > MOST_RESIDENT and not sanitized:
        raise Failure(f"peak of {outcome.peak_rss >> 20} MiB resident", outcome)


def check_refusal(outcome, names, others=()):
    """An unsuccessful run says why in one line of stderr that holds one of `names`.

    Warnings, and lines beginning with one of `others`, may stand before it.
    """
    if outcome.status not in (1, 2):
        raise Failure(f"exit {outcome.status}; an error has status 1 or 2", outcome)
    try:
        text = outcome.err.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Failure(f"stderr is not UTF-8: {error}", outcome) from None
    if not text.endswith("\n"):
        raise Failure("stderr does not end with the end of a line", outcome)
    allowed = ("purekv: warning: ", *others)
    lines = [line for line in text[:-1].split("\n") if not line.startswith(allowed) or line.startswith("purekv: error: ")]
    if len(lines) != 1:
        raise Failure(f"{len(lines)} lines on stderr where one is wanted", outcome)
    if not lines[0].startswith("purekv: "):
        raise Failure("the line on stderr does not begin with 'purekv: '", outcome)
    bad = [character for character in lines[0] if ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0]
    if bad:
        raise Failure(f"the line on stderr holds control characters: {bad!r}", outcome)
    # A path that is no UTF-8 is shown with its bytes escaped: it counts as far as the first of them.
    shown = [re.split("[\ufffd\udc80-\udcff]", name)[0] for name in names]
    if names and not any(name and name in lines[0] for name in shown):
        raise Failure("the line on stderr names none of " + ", ".join(sorted(names)), outcome)


def files_under(folder):
    """Every file below a folder, as a set of relative names."""
    found = set()
    for root, _, names in os.walk(folder):
        found.update(os.path.relpath(os.path.join(root, name), folder) for name in names)
    return found


def check_files(folder, before, expected, *outcomes):
    """Nothing but `expected` (names or folders, relative) has appeared in the folder, and nothing has gone."""
    after = files_under(folder)
    for name in sorted(after - before):
        if not any(name == one or name.startswith(one + os.sep) for one in expected):
            raise Failure(f"left behind: {name}", *outcomes)
    for name in sorted(before - after):
        raise Failure(f"has gone: {name}", *outcomes)


class Untouched:
    """The files that cases read from the repository: none may be another one at the end."""

    def __init__(self, *folders):
        self._folders = folders
        self._before = self._state()

    def _state(self):
        state = {}
        for folder in self._folders:
            for name in files_under(folder):
                info = os.stat(os.path.join(folder, name))
                state[os.path.join(folder, name)] = (info.st_size, info.st_mtime_ns, info.st_ino)
        return state

    def check(self):
        after = self._state()
        changed = [name for name in sorted(self._before.keys() | after.keys()) if self._before.get(name) != after.get(name)]
        if changed:
            raise Failure("an input has changed: " + ", ".join(changed[:5]))


def options_of(description, more=None):
    """The command line of a loop."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--program", default=str(SOURCE / "build/release/bin/purekv"), help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=60, help="start no new case after this (default: 60)")
    parser.add_argument("--seed", type=int, help="default: from the clock; it is printed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at a time (default: all cores)")
    parser.add_argument("--only", type=int, help="this case of the seed alone")
    parser.add_argument("--failures", type=int, default=20, help="stop after so many (default: 20)")
    parser.add_argument("--known", action="append", default=[], metavar="TEXT",
                        help="count failures whose report holds TEXT instead of printing them; repeatable")
    parser.add_argument("--work", help="folder for the cases' files (default: torture/ beside the program's folder)")
    if more:
        more(parser)
    options = parser.parse_args()
    if options.seed is None:
        options.seed = int(time.time()) % 1_000_000
    return options


def begin(options, name):
    """The program and an empty folder of this run's own, with the limits set that every child inherits."""
    program = Program(options.program)
    # Started in the background of a script, SIGINT is ignored, and so it would be in every child.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not program.sanitized:
        resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    parent = pathlib.Path(options.work) if options.work else program.path.parent.parent / "torture"
    parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-{options.seed}-", dir=parent))
    return program, folder


def describe(failure, index, options, folder):
    """A failure for people: what, with which command, and how to see it again."""
    lines = [f"FAILED case {index}: {failure}"]
    for outcome in failure.outcomes:
        lines.append(f"  command: {outcome.command()}")
    if failure.outcomes:
        last = failure.outcomes[-1]
        lines.append(f"  ended:   status {last.status} after {last.seconds:.2f} s, {last.peak_rss >> 20} MiB at most")
        for line in last.err[-2000:].decode("utf-8", "backslashreplace").splitlines()[-8:]:
            lines.append(f"  stderr:  {line[:600]}")
    lines.append(f"  files:   {folder}")
    script = os.path.relpath(sys.argv[0], SOURCE)
    lines.append(f"  again:   python3 {script} --program {shlex.quote(options.program)} --seed {options.seed} --only {index}")
    return "\n".join(lines)


def run_loop(name, options, program, folder, case):
    """Calls case(rng, folder of its own) until the time is up. Returns the exit status of the loop.

    It fails where a case does, and where hardly any run has succeeded: then nothing was tested.
    """
    end = time.monotonic() + options.seconds
    lock = threading.Lock()
    failures, known, done = [], 0, 0
    numbers = iter([options.only] if options.only is not None else range(1 << 62))

    def work():
        nonlocal done, known
        while True:
            with lock:
                late = time.monotonic() > end and done > 0 or len(failures) >= options.failures
                index = None if late else next(numbers, None)
            if index is None:
                return
            place = folder / f"case-{index}"
            place.mkdir()
            try:
                case(random.Random(f"{name}:{options.seed}:{index}"), place)
                shutil.rmtree(place)
                text = None
            except Failure as failure:
                text = describe(failure, index, options, place)
            except Exception:  # a mistake of the loop's own is no silent end either
                text = f"FAILED case {index}: the loop itself\n{traceback.format_exc()}"
            with lock:
                done += 1
                if text and any(one in text for one in options.known):
                    known += 1
                    shutil.rmtree(place)
                elif text:
                    failures.append(text)
                    print(text, flush=True)
                    (place / "failure.txt").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")

    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        workers = [pool.submit(work) for _ in range(options.jobs)]
        try:
            for worker in workers:
                worker.result()
        except KeyboardInterrupt:
            end = 0  # the workers finish their cases
            print(f"{name}: stopped", flush=True)
    endings = ", ".join(f"{count} x {ending}" for ending, count in sorted(program.endings.items()))
    print(f"{name}: seed {options.seed}, {done} cases in {time.monotonic() - start:.0f} s ({endings}), "
          f"{len(failures)} failures" + (f", {known} known ones besides" if known else ""))
    if options.only is None and program.endings["exit 0"] * 10 < sum(program.endings.values()):
        print(f"{name}: less than a tenth of the runs succeeded: this tests nothing")
        return 1
    if not failures:
        shutil.rmtree(folder)
    return 1 if failures else 0
