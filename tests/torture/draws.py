"""Random command lines: what can be combined with what is for the program to say, so that little is held back here."""
import json
import random
import re

import materials

LONG = {"-m": "--model", "-p": "--prompt", "-n": "--max-new-tokens", "-t": "--threads", "-o": "--output"}
# Values that are wrong for every flag that takes a number or a name.
JUNK = ["", " ", "nope", "-1", "1e", "nan", "inf", "0x10", "1,,2", "99999999999999999999999", "\u0665", "=", "1 2"]
# Values that are fine for some flags and wrong for others.
EDGES = ["0", "1", "2", "1e-9", "0.5", "1.5", "auto", "all", "none"]
SELDOM = 0.01  # what is sure to be refused
SHARES = [1, 0.999, 0.9, 0.75, 0.5, 0.29, 0.2, 0.1, 0.05, 0.01, 1e-6]


class Command:
    """A subcommand and its flags in the order typed, as pairs (value None: a switch; flag None: a lone argument)."""

    def __init__(self, name, pairs=()):
        self.name, self.pairs = name, list(pairs)

    def add(self, flag, value=None):
        self.pairs.append((flag, None if value is None else str(value)))
        return self

    def all(self, flag):
        return [value for one, value in self.pairs if one == flag]

    def get(self, flag, fallback=None):
        values = self.all(flag)
        return values[-1] if values else fallback

    def has(self, flag):
        return any(one == flag for one, _ in self.pairs)

    def without(self, *flags):
        return Command(self.name, [pair for pair in self.pairs if pair[0] not in flags])

    def renamed(self, name):
        return Command(name, self.pairs)

    def options(self, flag="--kv-option"):
        return dict(value.split("=", 1) for value in self.all(flag) if value and "=" in value)

    def argv(self):
        words = [self.name]
        for flag, value in self.pairs:
            words += [word for word in (flag, value) if word is not None]
        return words

    def names(self):
        """Each flag as an error line writes it."""
        return {LONG.get(flag, flag) for flag, _ in self.pairs}

    def media(self):
        return [pair for pair in self.pairs if pair[0] in ("--video", "--image", "--frames")]


MEDIA_FLAGS = ("--video", "--image", "--frames", "--fps", "--max-frames", "--video-start", "--video-end", "--min-pixels",
               "--max-pixels", "--sampling", "--system", "--context")
KV_FLAGS = ("--kv-policy", "--kv-budget", "--kv-tokens", "--kv-bytes", "--kv-option", "--kv-allocator", "--kv-chunk",
            "--kv-when", "--drop-layers", "--profile")
PREFILL_FLAGS = ("--prefill", "--prefill-option")
TURN_FLAGS = ("-p", "-n", "--temp", "--top-k", "--top-p", "--repetition-penalty", "--seed", "--sampling-defaults",
              "--independent")


class Catalogue:
    """The policies, their options and the ways to prefill, as the program lists them."""

    def __init__(self, program):
        listed = json.loads(program.must(["policies", "--json", "-"]).out)
        self.policies = {policy["name"]: policy for policy in listed["policies"]}
        self.common = listed["common_parameters"]
        self.prefill = {kind["name"]: kind for kind in listed["prefill"]}
        # A range in words that nobody here reads must fail every run, not the one that happens to draw it.
        for owner in [*listed["policies"], *listed["prefill"], {"parameters": self.common}]:
            for parameter in owner["parameters"]:
                draw_option(random.Random(0), parameter)


def draw_number(rng, low, high, real):
    """Mostly small numbers, where most rules have their corners."""
    kind = rng.random()
    if real and kind < 0.6:
        return round(min(high, low + rng.random() * min(high - low, 1)), 3)
    if kind < 0.1:
        return high
    if kind < 0.2:
        return low
    return min(high, low + int(2 ** rng.uniform(0, 8)) - 1)


def draw_option(rng, parameter):
    """A value inside the range of a parameter of `purekv policies`, in the words of its `range`."""
    text = parameter["range"]
    numbers = re.search(r"(-?[0-9.]+) \.\. (-?[0-9.]+)", text)
    if text.endswith(" or FILE"):
        return parameter["default"]
    if not numbers and "layers counted from 0" not in text:
        return rng.choice(text.split("|"))
    word = re.match(r"(\w+) or ", text)
    if word and rng.random() < 0.3:
        return word.group(1)
    if not numbers:
        return ",".join(str(layer) for layer in sorted(rng.sample(range(8), rng.choice([1, 1, 2]))))
    bounds = numbers.groups()
    if "." in "".join(bounds) + parameter["default"]:
        return draw_number(rng, *map(float, bounds), real=True)
    value = draw_number(rng, *map(int, bounds), real=False)
    return value | 1 if text.startswith("odd") else value


def draw_options(rng, command, flag, parameters, chance):
    for parameter in parameters:
        if rng.random() < chance:
            command.add(flag, f"{parameter['name']}={draw_option(rng, parameter)}")


def draw_media(rng, command, at_least=0):
    count = max(at_least, rng.choice([0, 1, 1, 1, 1, 1, 2, 3]))
    for _ in range(count):
        kind = rng.choice(["--video", "--video", "--image", "--frames"])
        files = {"--video": materials.VIDEOS + 2 * materials.DEMO_VIDEOS, "--image": materials.IMAGES,
                 "--frames": materials.FRAMES}[kind]
        command.add(kind, rng.choice(files))
    for flag, chance, values in (
            ("--fps", 0.15, [0.5, 1, 2, 3.7, 30]), ("--max-frames", 0.2, [2, 3, 4, 7, 16, 1000]),
            ("--min-pixels", 0.1, [1, 784, 3136, 20000]), ("--max-pixels", 0.2, [784, 3136, 12544, 50000, 200000]),
            ("--sampling", 0.1, ["qwen", "hf"]), ("--video-start", 0.08, [0, 0.2, 0.5]),
            ("--video-end", 0.08, [0.3, 0.7, 1, 50]), ("--system", 0.1, materials.TEXTS)):
        fits = flag == "--system" or command.has("--video") or "pixels" in flag and command.media()
        if rng.random() < (chance if fits else SELDOM):
            command.add(flag, rng.choice(values))
    if rng.random() < 0.1:
        command.add("--context", rng.choice(materials.CONTEXTS))


def draw_drop_layers(rng, command):
    if rng.random() < 0.2:
        return command.add("--drop-layers", "auto")
    layers = sorted(rng.sample(range(1, 8), rng.choice([1, 1, 2, 3])))
    shares = sorted(rng.sample(SHARES[1:-1], len(layers)), reverse=True)
    return command.add("--drop-layers", ",".join(f"{layer}:{share}" for layer, share in zip(layers, shares)))


def draw_kv(rng, command, catalogue, when=None):
    """A policy with its budget, allocator and options. when: fixes --kv-when; False leaves it out."""
    if when:
        command.add("--kv-when", when)
    elif when is None and rng.random() < 0.35:
        command.add("--kv-when", rng.choice(["prompt", "context"]))
    if rng.random() < 0.06:
        return command.add("--profile", materials.DEMO / "profile.json")
    name = rng.choice(list(catalogue.policies))
    policy = catalogue.policies[name]
    if name != "full" or rng.random() < 0.5:
        command.add("--kv-policy", name)
    if name == "full":
        if rng.random() < 0.1:
            draw_options(rng, command, "--kv-option", catalogue.common[:1], 0.5)
        return command
    budget = rng.choice(["--kv-budget", "--kv-budget", "--kv-tokens", "--kv-bytes"])
    command.add(budget, {"--kv-budget": rng.choice(SHARES), "--kv-tokens": int(2 ** rng.uniform(0, 10)),
                         "--kv-bytes": rng.choice(["16K", "64K", "200K", "1M", 123457, "3M", "1G"])}[budget])
    if rng.random() < 0.5:
        command.add("--kv-allocator", rng.choice(policy["allocators"]))
    draw_options(rng, command, "--kv-option", policy["parameters"], 0.25)
    for parameter in catalogue.common:
        of_allocator = re.match(r"--kv-allocator (\w+)", parameter["with"])
        fits = not of_allocator or command.get("--kv-allocator") == of_allocator.group(1)
        if rng.random() < (0.15 if fits else SELDOM):
            command.add("--kv-option", f"{parameter['name']}={draw_option(rng, parameter)}")
    if budget != "--kv-budget" and rng.random() < 0.25:
        command.add("--kv-chunk", rng.choice([1, 7, 16, 64, 100, 500]))
    if rng.random() < 0.15:
        draw_drop_layers(rng, command)
    return command


def draw_prefill(rng, command, catalogue):
    if rng.random() < 0.65:
        return
    kind = catalogue.prefill[rng.choice(list(catalogue.prefill))]
    command.add("--prefill", kind["name"])
    draw_options(rng, command, "--prefill-option", kind["parameters"], 0.3)


def draw_turns(rng, command, generated=True):
    """Questions, and how answers are drawn."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        command.add("-p", rng.choice(materials.TEXTS))
    if not generated:
        return
    command.add("-n", rng.choice([1, 2, 5, 12, 24]))
    if rng.random() < 0.3:
        command.add("--temp", rng.choice([0, 0.01, 0.7, 1, 5, 100]))
    drawn = 0.25 if command.get("--temp", "0") != "0" else SELDOM
    for flag, chance, values in (("--top-k", drawn, [0, 1, 2, 50, 100000]), ("--top-p", drawn, [1, 0.9, 0.1, 1e-6]),
                                 ("--repetition-penalty", 0.1, [1, 1.05, 2, 0.5, 100]),
                                 ("--seed", 0.1, [0, 1, 18446744073709551615]),
                                 ("--sampling-defaults", 0.08, ["none", "model"])):
        if rng.random() < chance:
            command.add(flag, rng.choice(values))


def draw_model(rng, command, models):
    model = models[0] if rng.random() < 0.6 else rng.choice(models)
    command.add("-m", model.folder)
    if rng.random() < 0.4:
        command.add("--dtype", rng.choice(["bf16", "f32"]))
    if rng.random() < 0.3:
        command.add("-t", rng.choice([1, 2, 3]))
    return model


def draw_flaw(rng, command):
    """One thing wrong, or perhaps wrong: a value that is junk, a flag twice, a flag that is missing, bytes that are no text."""
    pairs = command.pairs
    valued = [i for i, (flag, value) in enumerate(pairs) if value is not None and flag not in ("-m", "-o", "--json", "--kept")]
    kind = rng.choice(["junk", "junk", "edge", "twice", "missing", "bytes"])
    if kind == "missing":
        pairs.pop(rng.randrange(len(pairs)))
        return
    at = rng.choice(valued)
    flag, value = pairs[at]
    if kind == "twice":
        pairs.append(pairs[at])
    elif kind == "bytes":
        pairs[at] = (flag, value + "\udcff\udc80")
    else:
        pairs[at] = (flag, rng.choice(JUNK if kind == "junk" else EDGES))


def to_environment(rng, command):
    """Moves some flags to where they can be as well: PUREKV_A_B. Returns the command and the environment."""
    environment = {}
    kept = []
    # Variables are read behind the command line: media would come in another order.
    several = len(command.media()) > 1
    for flag, value in command.pairs:
        name = "PUREKV_" + LONG.get(flag, flag)[2:].upper().replace("-", "_")
        once = len(command.all(flag)) == 1 and value and flag not in ("-m", "-p")
        if once and not (several and (flag, value) in command.media()) and rng.random() < 0.3:
            environment[name] = value
        else:
            kept.append((flag, value))
    return Command(command.name, kept), environment
