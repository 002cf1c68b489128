"""What kvpress keeps: its scores restated from their definitions, and the library itself where it is installed.

Each restated score is float64 [G, N], higher stays; protected entries score infinity. `Part` (tools/reference/policy_definitions.py)
holds the queries before and after rotation, keys and values of a prompt's layers as transformers computed them.
"""
import logging
import math

import torch

from transformers_side import DynamicCache, Model, Prompt

try:
    import kvpress
    logging.getLogger("kvpress").setLevel(logging.ERROR)  # "not tested" with this architecture: README.md says what it takes
except ImportError:
    kvpress = None


def count(n: int, budget: float) -> int:
    """Entries that a compression ratio of 1 - budget leaves."""
    return max(1, int(n * (1 - (1 - budget))))


# --- restated -------------------------------------------------------------------------------------------------------------------------


def grouped(per_query_head: torch.Tensor, part) -> torch.Tensor:
    return per_query_head.unflatten(0, (part.kv_heads, part.group)).mean(1)


def snapkv(part, layer, window_size=64, kernel_size=5):
    """Mean attention of the last queries, averaged over neighbours (zeros beyond the ends count), then over the group; the window stays."""
    before = part.n - window_size
    seen = part.attention_sum(layer, window_size)[:, :before] / window_size
    half = kernel_size // 2
    padded = torch.nn.functional.pad(seen, (half, half))
    smooth = sum(padded[:, i:i + before] for i in range(kernel_size)) / kernel_size
    return torch.nn.functional.pad(grouped(smooth, part), (0, window_size), value=math.inf)


def knorm(part, layer):
    return -part.layers[layer]["k"].square().sum(-1).sqrt()


def keydiff(part, layer):
    """How little a key points the way of the mean direction of all keys."""
    directions = part.layers[layer]["k"] / part.layers[layer]["k"].norm(dim=-1, keepdim=True)
    anchor = directions.mean(1)
    return -torch.einsum("gnd,gd->gn", directions, anchor / anchor.norm(dim=-1, keepdim=True))


def expected_attention(part, layer, first, n_sink=4, n_future_positions=512):
    """softmax over keys of E[q.k] + Var[q.k] / 2 for Gaussian queries turned by the mean rotation of positions first .. first + 511,
    mean over the group, times the value's norm; the sinks take no part and stay."""
    data, d = part.layers[layer], part.head_dim
    angles = torch.arange(first, first + n_future_positions, dtype=torch.float64)[:, None] * part.inv_freq
    turn = torch.polar(torch.ones_like(angles), angles).mean(0)               # one complex factor per rotated pair

    def rotated(x):                                                          # pairs are (i, i + d / 2)
        pairs = torch.complex(x[..., : d // 2], x[..., d // 2:]) * turn
        return torch.cat([pairs.real, pairs.imag], -1)

    queries = rotated(data["q_raw"][:, n_sink:])                             # turning is linear: mean and covariance turn alike
    mean = queries.mean(1)
    covariance = torch.einsum("hti,htj->hij", queries - mean[:, None], queries - mean[:, None]) / queries.shape[1]
    keys = data["k"][:, n_sink:].repeat_interleave(part.group, 0)
    expected = torch.einsum("hnd,hd->hn", keys, mean) / math.sqrt(d)
    variance = torch.einsum("hni,hij,hnj->hn", keys, covariance, keys) / d
    share = grouped(torch.softmax(expected + variance / 2, -1), part)
    score = share * data["v"][:, n_sink:].norm(dim=-1)
    return torch.nn.functional.pad(score, (n_sink, 0), value=math.inf)


def streaming_llm(part, layer, n_sink=4):
    """The latest, and the sinks."""
    score = torch.arange(part.n, dtype=torch.float64)
    score[:n_sink] = math.inf
    return score.expand(part.kv_heads, -1)


def tova(part, layer):
    """Attention of the last query, one mean over all heads; the last token itself stays."""
    score = part.attention_sum(layer, 1).mean(0).clone()
    score[-1] = math.inf
    return score.expand(part.kv_heads, -1)


def best(score: torch.Tensor, kept: int) -> list:
    """Positions [G][kept], ascending; the lower one of equal scores."""
    order = torch.sort(score, dim=-1, descending=True, stable=True).indices[:, :kept]
    return order.sort(-1).values.tolist()


# --- the library ----------------------------------------------------------------------------------------------------------------------


class TextRotary(torch.nn.Module):
    """What kvpress asks of a rotary embedding: cos and sin for positions [1, n]. Qwen2.5-VL's wants one row per axis; here all are equal,
    as they are for text. `shift` turns counts of tokens into positions."""

    def __init__(self, rotary, shift: int):
        super().__init__()
        self.rotary, self.shift = rotary, shift

    def forward(self, x, positions):
        cos, sin = self.rotary(x, (positions + self.shift).expand(3, *positions.shape))
        return cos[0], sin[0]


class Library:
    """Runs a prompt with a press around transformers' model and reads from the cache which entries are left."""

    def __init__(self, model: Model):
        self.model = model

    def run(self, prompt: Prompt, press, shift: int) -> tuple[DynamicCache, list]:
        """(the compressed cache, kept positions [L][G][M] ascending)"""
        rotary = self.model.text.rotary_emb
        with press(self.model.whole):
            for layer in self.model.text.layers:
                layer.self_attn.rotary_emb = TextRotary(rotary, shift)
            cache = self.model.prefill(prompt.batch)
        return cache, [self._positions(full[0], entry.keys[0]) for full, entry in zip(prompt.keys, cache.layers)]

    @staticmethod
    def _positions(full, left) -> list:
        """Rows of left [G, M, d] found in full [G, N, d]: rotation makes every key of a head different."""
        out = []
        for every, some in zip(full, left):
            place = {row.numpy().tobytes(): j for j, row in enumerate(every)}
            assert len(place) == len(every), "two keys are equal: positions cannot be told from the cache"
            out.append(sorted(place[row.numpy().tobytes()] for row in some))
        return out
