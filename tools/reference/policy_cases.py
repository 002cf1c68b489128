"""What check_policies.py runs: models, prompts, and the cases of each prompt."""
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import cases as tiny
import tokenizer_files
from layout import HERE, OUT, write_json
from policy_definitions import DEFAULTS, NO_ADA

ROOT = HERE.parent.parent


@dataclass(frozen=True)
class Case:
    policy: str
    options: tuple = ()          # (("window", "16"), ...)
    allocator: str = "uniform"
    when: str = "prompt"
    budget: float | None = None
    tokens: int | None = None
    bytes: str | None = None

    def flags(self) -> list[str]:
        out = ["--kv-policy", self.policy, "--kv-when", self.when]
        for name in ("budget", "tokens", "bytes"):
            if getattr(self, name) is not None:
                out += [f"--kv-{name}", str(getattr(self, name))]
        if self.allocator != "uniform":
            out += ["--kv-allocator", self.allocator]
        for key, value in self.options:
            out += ["--kv-option", f"{key}={value}"]
        return out

    def name(self) -> str:
        size = next((f"{n}={getattr(self, n)}" for n in ("budget", "tokens", "bytes") if getattr(self, n) is not None), "all")
        return " ".join([self.policy, self.allocator, self.when, size, *(f"{k}={v}" for k, v in self.options)])


def parsed(case: Case) -> tuple[dict, float, float]:
    """The policy's options with their defaults filled in, alpha and beta."""
    options, shared = dict(DEFAULTS[case.policy]), {"alpha": 0.2, "beta": 20.0}
    for key, value in case.options:
        target = shared if key in shared else options
        kind = type(target[key])
        target[key] = kind(value)
    return options, shared["alpha"], shared["beta"]


def random_model(bin_dir: Path, folder: Path, seed: int, **text) -> Path:
    config = tiny.flat(tokenizer_files.special_ids("tokenizer"))
    config.update(text)
    half = config["hidden_size"] // config["num_attention_heads"] // 2
    config["rope_scaling"]["mrope_section"] = [half // 4, (half - half // 4) // 2, half - half // 4 - (half - half // 4) // 2]
    config["rope_theta"] = 10000.0
    config["vision_config"]["out_hidden_size"] = config["hidden_size"]
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", tiny.preprocessor())
    write_json(folder / "generation_config.json", tiny.generation(tokenizer_files.special_ids("tokenizer")))
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.json"):
        shutil.copy(OUT / "tokenizer" / file, folder)
    program = bin_dir / "purekv-make-random-model"
    subprocess.run([program, "--seed", str(seed), "--dtype", "f32", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


MODELS = {  # name: seed and shape; None is models/demo
    "demo": None,
    "group1": dict(seed=3, hidden_size=192, num_attention_heads=3, num_key_value_heads=3, num_hidden_layers=3, intermediate_size=256),
    "group4": dict(seed=5, hidden_size=640, num_attention_heads=8, num_key_value_heads=2, num_hidden_layers=6, intermediate_size=512),
    "group7": dict(seed=7, hidden_size=896, num_attention_heads=14, num_key_value_heads=2, num_hidden_layers=2, intermediate_size=512),
    "single": dict(seed=9, hidden_size=256, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1, intermediate_size=256)}

EVAL, MEDIA = ROOT / "models/demo/eval", OUT / "media"
WORDS = "the red circle moves to the left, then a blue square appears near the top and stays there. "
SMALL = ["--min-pixels", "9408", "--max-pixels", "18816"]


def prompts(name: str, quick: bool) -> dict[str, list[str]]:
    if name == "demo":
        out = {"tiny": ["--system", "", "-p", ""], "text": ["-p", WORDS * 4],
               "video": ["--video", EVAL / "short-00.mp4", "-p", "Describe the video."],
               "image": ["--image", MEDIA / "street.png", "--max-pixels", "40000", "-p", "What is shown?"]}
        if not quick:
            out |= {"video824": ["--video", EVAL / "medium-00.mp4", "-p", "Where does the red square appear?"],
                    "mixed": ["--image", MEDIA / "tower.png", "--video", EVAL / "short-01.mp4", "--max-pixels", "20000",
                              "-p", "What differs?"],
                    "video3000": ["--video", EVAL / "long-00.mp4", "-p", "Describe the video."], "text3000": ["-p", WORDS * 120]}
        return out
    out = {"text": ["-p", WORDS], "video": ["--frames", MEDIA / "walk.npy", *SMALL, "-p", "What happens at the end?"]}
    if not quick:
        out |= {"images": ["--image", MEDIA / "tower.png", "--image", MEDIA / "button.png", "-p", "What's the difference?"],
                "text600": ["-p", WORDS * 8]}
    return out


VARIANTS = """
random uniform seed=7 sinks=0 recent=0
uniform uniform sinks=0 recent=5
uniform pyramid sinks=9 recent=0
streaming-llm uniform sinks=0
streaming-llm uniform sinks=30
h2o uniform recent_ratio=0
h2o uniform recent_ratio=0.9
h2o ada recent_ratio=0.13
h2o ada recent_ratio=0.25 alpha=0.8
tova pyramid beta=3
tova uniform sinks=0 recent=0
tova uniform sinks=1 recent=1
snapkv uniform window=1 kernel=7 pool=max
snapkv ada window=8 pool=none
snapkv uniform window=500 kernel=1
snapkv ada window=16 kernel=31 alpha=0.5
snapkv pyramid window=5 beta=4
knorm uniform sinks=0 recent=0
keydiff ada sinks=0 recent=1
keydiff ada alpha=0.9
keydiff pyramid sinks=2 recent=7 beta=1
vnorm ada sinks=20 recent=3 alpha=0
vnorm ada sinks=2 recent=3 alpha=0.7
vnorm ada recent=10 alpha=1
expected-attention uniform sinks=0 horizon=1
expected-attention uniform covariance=0 horizon=40
expected-attention ada epsilon=0.2 sinks=10
expected-attention uniform epsilon=0 recent=0
purekv uniform sources=0
purekv uniform sources=0 window=20 normalise=1
purekv uniform normalise=1 sinks=0 recent=0
purekv ada heads=mean
purekv uniform heads=mean vnorm=0 sources=0
purekv pyramid vnorm=0 window=1
purekv uniform sources=LAST recent=3
purekv uniform window=100000 recent=100 sinks=50
purekv uniform sources=1,3
purekv ada sources=1,2,4 window=50 normalise=1
purekv uniform sources=LAST below=wait heads=mean recent=3
purekv ada sources=LAST below=vnorm
"""
CSP = """
uniform
uniform window=300 cross_ratio=0.3 recent_ratio=0.1
pyramid window=12 cross_ratio=0.8 n=100
uniform window=1 n=0
uniform window=40 cross_ratio=1 recent_ratio=0
uniform window=100000 cross_ratio=0 recent_ratio=0.3
"""


def variants(layers: int) -> list[tuple]:
    """(policy, options, allocator): every policy as it comes with every allocator it takes, and those listed above."""
    lines = [f"{p} {a}" for a in ("uniform", "ada", "pyramid") for p in DEFAULTS if p != "full" and not (a == "ada" and p in NO_ADA)]
    lines += VARIANTS.replace("LAST", str(layers - 1)).strip().splitlines()
    lines += [f"csp {line} combine={c}" for c in ("union", "concat", "intersect") for line in CSP.strip().splitlines()]
    out = []
    for policy, allocator, *options in map(str.split, lines):
        options = tuple(tuple(o.split("=")) for o in options)
        sources = dict(options).get("sources", "0").split(",")
        if max(map(int, sources)) < layers:
            out.append((policy, options, allocator))
    return out


def make_cases(prompt, decoder, quick: bool) -> list[Case]:
    """Every variant (of long prompts, or when in a hurry, every third) with a size from a list that rotates."""
    entry = decoder.layers * decoder.kv_heads * 2 * decoder.head_dim * 4
    n = prompt.n
    sizes = [dict(budget=0.2), dict(tokens=1), dict(budget=0.5), dict(tokens=max(1, n - 1)), dict(budget=0.07),
             dict(bytes=str(entry * (n // 3) + entry - 1)), dict(tokens=2), dict(budget=0.9), dict(tokens=7), dict(tokens=n),
             dict(bytes=f"{max(1, entry * (n // 4) // 1024)}K"), dict(budget=0.35),
             dict(tokens=3), dict(budget=1.0), dict(budget=0.1), dict(tokens=n + 500)]
    step = 3 if n > 700 or quick else 1
    out, start = [Case("full")], n * 7 + decoder.layers
    for at, (policy, options, allocator) in enumerate(variants(decoder.layers), start):
        if at % step == 0:
            when = "media" if prompt.media_end and at // step % 3 else "prompt"
            out.append(Case(policy, options, allocator, when, **sizes[at * 7 // step % len(sizes)]))
    return out


REFUSED = """
--kv-policy full --kv-allocator pyramid
--kv-policy full --kv-allocator ada
--kv-policy csp --kv-budget 0.2 --kv-option n=1000001
--kv-policy csp --kv-budget 0.2 --kv-option n=-1
--kv-policy csp --kv-budget 0.2 --kv-option combine=or
--kv-policy snapkv --kv-budget 0.2 --kv-option pool=min
--kv-policy snapkv --kv-budget 0.2 --kv-option kernel=4
--kv-policy snapkv --kv-budget 0.2 --kv-option window=0
--kv-policy h2o --kv-budget 0.2 --kv-option recent_ratio=1.5
--kv-policy knorm --kv-budget 0.2 --kv-option window=3
--kv-policy purekv --kv-budget 0.2 --kv-option sources=99
--kv-policy purekv --kv-budget 0.2 --kv-option heads=each
--kv-policy h2o --kv-budget 0.2 --kv-option sinks=1
--kv-policy h2o --kv-budget 0.2 --kv-when media
--kv-policy h2o --kv-bytes 100
--kv-policy h2o --kv-budget 0
--kv-policy h2o --kv-budget 1.1
--kv-policy h2o --kv-tokens 0
"""


def refusals() -> list[list[str]]:
    """Flags for a text prompt that must end with status 2."""
    ada = [["--kv-policy", p, "--kv-allocator", "ada", "--kv-budget", "0.2"] for p in NO_ADA if p != "full"]
    return ada + [line.split() for line in REFUSED.strip().splitlines()]
