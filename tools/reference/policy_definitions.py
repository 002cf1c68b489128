"""The cache policies written out once more, in float64 and for nothing but clarity: what check_policies.py compares the engine with.

Made from the policies' definitions alone, not from the engine's code. A `Part` is the part of a prompt that is compressed: per layer
the queries, keys and values, and what follows from them. `scores` gives a policy's planes, `keep` the kept positions.
Where the definitions leave a choice, this is read: B is at most N, also in the shares made from it; a layer to which `pyramid` gives N
tokens keeps everything, under csp's concat too; snapkv's window is capped for its queries as for its keys, so that a budget of one token
scores with one query and protects none; the snapkv score of purekv's lowest layers has the same cap.

Arrays: H query heads, G KV heads, N tokens, d head dim; KV head g serves the query heads g * H/G .. (g + 1) * H/G - 1.
"""
import math

import numpy as np
import torch

DEFAULTS = {
    "full": {}, "random": {"seed": 0, "sinks": 4, "recent": 32}, "uniform": {"sinks": 4, "recent": 32}, "streaming-llm": {"sinks": 4},
    "h2o": {"recent_ratio": 0.5}, "tova": {"sinks": 4, "recent": 32}, "snapkv": {"window": 32, "kernel": 5, "pool": "avg"},
    "knorm": {"sinks": 4, "recent": 32}, "keydiff": {"sinks": 4, "recent": 32}, "vnorm": {"sinks": 4, "recent": 32},
    "expected-attention": {"sinks": 4, "recent": 32, "horizon": 512, "epsilon": 0.01, "covariance": 1},
    "csp": {"window": 64, "cross_ratio": 0.5, "recent_ratio": 0.5, "n": 1.0, "combine": "union"},
    "purekv": {"sources": "auto", "window": "all", "heads": "own", "normalise": 0, "vnorm": 1, "below": "window",
               "sinks": 4, "recent": 32}}
HOLDS = ("streaming-llm", "h2o", "tova")
NO_ADA = ("full", "random", "uniform", "streaming-llm", "tova", "csp")
CHUNK = 512  # queries whose probabilities are held at a time


def floor(x: float) -> int:
    """Every floor of a fraction of a count."""
    return math.floor(x + 1e-6)


def budget_tokens(case, n: int, model, options: dict, beta: float) -> int:
    """B, tokens per KV head and layer, at most those there are; float32 entries. 0: the bytes hold none."""
    if case.bytes is not None:
        unit = {"K": 1024, "M": 1024 ** 2, "G": 1024 ** 3}
        size = case.bytes
        size = int(size[:-1]) * unit[size[-1]] if size[-1] in unit else int(size)
        return next((b for b in range(n, 0, -1) if bytes_held(case, b, n, model, options, beta) <= size), 0)
    if case.tokens is not None:
        return min(n, case.tokens)
    return min(n, max(1, floor((1.0 if case.budget is None else case.budget) * n)))


def bytes_held(case, base: int, n: int, model, options: dict, beta: float) -> int:
    """The most that is allocated behind the cut, and while decoding where the policy holds: one entry more per head."""
    row, heads, more = model.head_dim * 4, model.kv_heads, int(case.policy in HOLDS)
    counts = layer_budgets(case.allocator, model.layers, base, n, sum(protected_spans(case.policy, options, base)), beta)
    return sum(2 * list_bytes(case.allocator, row, heads, count + more, n + more) for count in counts)


def list_bytes(allocator: str, row: int, heads: int, each: int, longest: int) -> int:
    """All heads' keys (or values) of one layer: lists in pages, in multiples of 64 bytes below one page."""
    def allocated(length: int) -> int:
        unit = 4096 if length * row >= 4096 else 64
        return -(-length * row // unit) * unit
    if allocator != "ada":
        return heads * allocated(each)
    total = heads * each * row
    pages = min(heads, total // 4096)
    bound = total + pages * (4096 - math.gcd(row, 4096)) + (heads - pages) * (64 - math.gcd(row, 64))
    return min(bound, heads * allocated(min(longest, heads * each)))


class Part:
    """Queries before and after rotation [H, N, d], keys after rotation and values [G, N, d] of every layer, in float64."""

    def __init__(self, layers, visual, positions, inv_freq):
        self.layers = layers            # dicts with q_raw, q, k, v
        self.visual = visual            # bool [N]
        self.positions = positions      # [3, N]
        self.inv_freq = inv_freq        # [d / 2]
        self.n = len(visual)
        self.kv_heads, _, self.head_dim = layers[0]["k"].shape
        self.group = layers[0]["q"].shape[0] // self.kv_heads
        self._memo = {}

    def rows(self, layer: int, window: int):
        """Yields (query indices, probabilities [H, queries, N], log-sum-exp [H, queries]) for the last `window` queries.

        The probability is a float32 number by definition: where float32 has only 0, so have we."""
        q, k = self.layers[layer]["q"], self.layers[layer]["k"].repeat_interleave(self.group, 0)
        for begin in range(self.n - window, self.n, CHUNK):
            at = torch.arange(begin, min(begin + CHUNK, self.n))
            logits = q[:, at] @ k.transpose(1, 2) / math.sqrt(self.head_dim)
            logits.masked_fill_(torch.arange(self.n)[None, :] > at[:, None], -math.inf)
            lse = torch.logsumexp(logits, -1)
            yield at, (logits - lse[..., None]).exp_().float().double(), lse

    def group_mean(self, per_head: torch.Tensor) -> np.ndarray:
        return per_head.unflatten(0, (self.kv_heads, self.group)).mean(1).numpy()

    def attention_sum(self, layer: int, window: int) -> torch.Tensor:
        """[H, N]: the probabilities summed over the last `window` queries."""
        key = ("sum", layer, window)
        if key not in self._memo:
            self._memo[key] = sum(a.sum(1) for _, a, _ in self.rows(layer, window))
        return self._memo[key]

    def cross_self(self, layer: int, window: int, n: float) -> tuple[np.ndarray, np.ndarray]:
        """csp's planes [G, N]: what queries of the key's own modality, and of the other, give it with the n-softmax."""
        key = ("csp", layer, window, n)
        if key not in self._memo:
            by_class = torch.zeros(2, self.kv_heads * self.group, self.n, dtype=torch.float64)  # text queries, visual queries
            visual = torch.from_numpy(self.visual)
            for at, a, lse in self.rows(layer, window):
                w = a * (torch.sigmoid(lse - math.log(n)) if n > 0 else torch.ones_like(lse))[..., None]
                by_class[0] += w[:, ~visual[at]].sum(1)
                by_class[1] += w[:, visual[at]].sum(1)
            text, media = self.group_mean(by_class[0]), self.group_mean(by_class[1])
            self._memo[key] = (np.where(self.visual, media, text), np.where(self.visual, text, media))
        return self._memo[key]

    def value_norm(self, layer: int) -> np.ndarray:
        return self.layers[layer]["v"].norm(dim=-1).numpy()


def protected_spans(policy: str, options: dict, base: int) -> tuple[int, int]:
    """(first tokens, last tokens) that are always kept; shares of the base B, whatever an allocator does later."""
    sinks = min(options.get("sinks", 0), base // 4)
    recent = options.get("recent", 0)
    if policy == "snapkv":
        recent = options["window"]
    if policy in ("h2o", "csp"):
        recent = floor(base * options["recent_ratio"])
    return sinks, min(recent, base // 2)


def pooled(score: np.ndarray, kernel: int, pool: str) -> np.ndarray:
    if pool == "none":
        return score
    half = kernel // 2
    wide = np.pad(score, ((0, 0), (half, half)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, kernel, axis=1)
    return windows.max(-1) if pool == "max" else windows.sum(-1) / kernel


def mean_last(part: Part, layer: int, window: int) -> np.ndarray:
    """[G, N]: mean over the last queries (at least one) of the probability."""
    window = max(1, min(window, part.n))
    return part.group_mean(part.attention_sum(layer, window)) / window


def expected_attention(part: Part, layer: int, options: dict, sinks: int) -> np.ndarray:
    data, d = part.layers[layer], part.head_dim
    q = data["q_raw"][:, sinks:]
    mean = q.mean(1)                                                          # [H, d]
    centred = q - mean[:, None]
    covariance = centred.transpose(1, 2) @ centred / q.shape[1]
    first = int(part.positions.max()) + 1
    angles = torch.outer(torch.arange(first, first + options["horizon"], dtype=torch.float64), part.inv_freq)
    cos, sin = (torch.cat([f(angles).mean(0)] * 2) for f in (torch.cos, torch.sin))
    turn = torch.zeros(d, d, dtype=torch.float64)                             # (-x2, x1) of (x1, x2)
    turn[: d // 2, d // 2:] = -torch.eye(d // 2, dtype=torch.float64)
    turn[d // 2:, : d // 2] = torch.eye(d // 2, dtype=torch.float64)
    rotation = torch.diag(cos) + torch.diag(sin) @ turn
    keys = data["k"][:, sinks:].repeat_interleave(part.group, 0)              # [H, n, d]
    z = (keys @ (mean @ rotation.T)[..., None])[..., 0] / math.sqrt(d)
    if options["covariance"]:
        z = z + ((keys @ (rotation @ covariance @ rotation.T)) * keys).sum(-1) / (2 * d)
    share = part.group_mean(torch.softmax(z, -1)) + options["epsilon"]
    score = np.zeros((part.kv_heads, part.n))                                 # the sinks are protected and need none
    score[:, sinks:] = share * part.value_norm(layer)[:, sinks:]
    return score


def purekv(part: Part, layer: int, options: dict, base: int) -> np.ndarray:
    count = len(part.layers)
    sources = [min(2, count - 1)] if options["sources"] == "auto" else [int(s) for s in options["sources"].split(",")]
    below = [s for s in sources if s <= layer]
    if not below and options["below"] == "vnorm":
        return part.value_norm(layer)
    if not below and options["below"] == "wait":
        below = [min(sources)]
    if not below:
        return mean_last(part, layer, min(32, base // 2))
    window = part.n if options["window"] == "all" else min(int(options["window"]), part.n)
    score = part.group_mean(part.attention_sum(max(below), window))
    if options["normalise"]:
        score = score / np.minimum(window, part.n - np.arange(part.n))
    if options["heads"] == "mean":
        score = np.broadcast_to(score.mean(0), score.shape)
    return score * part.value_norm(layer) if options["vnorm"] else score


def scores(part: Part, layer: int, policy: str, options: dict, base: int) -> tuple:
    """The planes [G, N] that this policy ranks keys of this layer by: two for csp, one for the others."""
    data, n = part.layers[layer], part.n
    sinks, recent = protected_spans(policy, options, base)
    if policy == "streaming-llm":
        return (np.broadcast_to(np.arange(n, dtype=float), (part.kv_heads, n)),)
    if policy == "h2o":
        return (part.group_mean(part.attention_sum(layer, n)),)
    if policy == "tova":
        return (np.broadcast_to(part.attention_sum(layer, 1).mean(0).numpy(), (part.kv_heads, n)),)
    if policy == "snapkv":
        raw = mean_last(part, layer, recent)
        before = n - recent
        score = np.zeros_like(raw)
        score[:, :before] = pooled(raw[:, :before], options["kernel"], options["pool"])
        return (score,)
    if policy == "knorm":
        return (-data["k"].norm(dim=-1).numpy(),)
    if policy == "keydiff":
        unit = data["k"] / data["k"].norm(dim=-1, keepdim=True)
        anchor = unit.mean(1, keepdim=True)
        return (-(unit * (anchor / anchor.norm(dim=-1, keepdim=True))).sum(-1).numpy(),)
    if policy == "vnorm":
        return (part.value_norm(layer),)
    if policy == "expected-attention":
        return (expected_attention(part, layer, options, sinks),)
    if policy == "csp":
        return part.cross_self(layer, min(options["window"], n), options["n"])
    if policy == "purekv":
        return (purekv(part, layer, options, base),)
    raise ValueError(policy)


def layer_budgets(allocator: str, layers: int, base: int, n: int, protected: int, beta: float) -> list[int]:
    if allocator != "pyramid" or layers == 1 or base >= n:
        return [base] * layers
    low = max(base / beta, protected, 2 * base - n)
    high = 2 * base - low
    ramp = [high + (low - high) * l / (layers - 1) for l in range(layers)]
    ends = [math.floor(sum(ramp[: l + 1]) + 0.5 + 1e-9) for l in range(layers)]
    return [b - a for a, b in zip([0] + ends, ends)]


def ranked(score: np.ndarray, candidates) -> np.ndarray:
    """Candidates by descending score, the lower position first among equals."""
    candidates = np.asarray(candidates)
    return candidates[np.lexsort((candidates, -score[candidates]))]


def combine_planes(own, cross, candidates, k: int, options: dict) -> set:
    """csp's choice of at most k candidates of one head."""
    k_cross = floor(k * options["cross_ratio"])
    k_self = k - k_cross
    by_self = [j for j in ranked(own, candidates) if own[j] > 0]
    by_cross = [j for j in ranked(cross, candidates) if cross[j] > 0]
    if options["combine"] == "concat":
        return set(by_self[:k_self]) | set(by_cross[:k_cross])
    if options["combine"] == "union":
        taken = set(by_self[:k_self])
        taken |= set([j for j in by_cross if j not in taken][:k_cross])
    else:
        taken = set(by_self[:k]) & set(by_cross[:k])
    rest = [j for j in ranked(own + cross, candidates) if j not in taken]
    return taken | set(rest[: k - len(taken)])


def select(planes: tuple, policy: str, options: dict, allocator: str, alpha: float, base: int, here: int, n: int) -> list[list[int]]:
    """The kept positions of every KV head of a layer whose budget is `here`; `base` is B before the allocator."""
    heads = planes[0].shape[0]
    if here >= n:
        return [list(range(n))] * heads
    sinks, recent = protected_spans(policy, options, base)
    fixed = set(range(sinks)) | set(range(n - recent, n))
    free = [j for j in range(n) if j not in fixed]
    if policy == "csp":
        return [sorted(fixed | combine_planes(planes[0][g], planes[1][g], free, here - recent, options)) for g in range(heads)]
    if allocator != "ada":
        return [sorted(fixed | set(ranked(planes[0][g], free)[: here - len(fixed)].tolist())) for g in range(heads)]
    own = max(floor(alpha * here) - len(fixed), 0)
    kept = [fixed | set(ranked(planes[0][g], free)[:own].tolist()) for g in range(heads)]
    rest = [(-planes[0][g][j], j, g) for g in range(heads) for j in free if j not in kept[g]]
    for _, j, g in sorted(rest)[: here * heads - sum(map(len, kept))]:
        kept[g].add(j)
    return [sorted(k) for k in kept]


def evenly_spaced(options: dict, base: int, here: int, n: int) -> list[int]:
    if base >= n:
        return list(range(n))
    sinks, recent = protected_spans("uniform", options, base)
    free, m = n - sinks - recent, here - sinks - recent
    middle = [sinks + ((2 * k + 1) * free) // (2 * m) for k in range(m)]
    return sorted(set(range(sinks)) | set(middle) | set(range(n - recent, n)))
