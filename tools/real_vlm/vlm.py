"""The training module: SmolLM2's decoder, frozen, with low-rank updates of all its products, behind a tower that learns.

The module is that of tools/demo_model (published names, slots that see the video only) at SmolLM2's sizes.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

import language
import weights
from batches import Packer
import model as model_module
from model import DemoModel, _rotate, slot_attention
from scenes import COLOUR_NAMES, SHAPES, TIMES

RANK = 32
MOTION_WORDS = ("still", "left", "right", "up", "down")
# What a token shows, in words: each kind with its weight in the token's target. Left and right are words for motion, so that
# the sides of the picture are called west and east here; the low-rank updates turn them into the answer's words.
WORDS = {"colour": (COLOUR_NAMES, 1.0), "shape": (SHAPES, 1.0), "motion": (MOTION_WORDS, 0.8), "time": (TIMES, 0.6),
         "height": (("top", "bottom"), 0.6), "side": (("west", "east"), 0.6), "nothing": (("background",), 1.0)}
NORM = 4.0                           # mean length of a target; an embedding of SmolLM2 has 2.2 to 3.2


class LowRank(nn.Module):
    """The factors of one layer's update; Products multiplies by them."""
    active = True                    # off: the original decoder, which the plain-text loss compares with

    def __init__(self, layer, rank):
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, layer.in_features) / math.sqrt(layer.in_features))
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank))


class Products(torch.autograd.Function):
    """x times the frozen weights of several layers that read the same x, one below the other, plus their low-rank updates: as few
    large products as possible, and one gradient of x instead of one per factor that autograd would have to add up."""

    @staticmethod
    def forward(ctx, x, weight, *factors):
        rows = x.flatten(0, -2)
        a = torch.cat(factors[::2]).to(x.dtype)
        b = torch.block_diag(*factors[1::2]).mul_(weights.SCALE).to(x.dtype)
        low = rows @ a.T
        out = (rows @ weight.T).addmm_(low, b.T)
        ctx.save_for_backward(rows, low, weight, a, b)
        ctx.sizes = [f.shape for f in factors[1::2]]
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad):
        rows, low, weight, a, b = ctx.saved_tensors
        flat = grad.flatten(0, -2)
        grad_low = flat @ b
        grad_x = (flat @ weight).addmm_(grad_low, a)
        grad_a, grad_b = (grad_low.T @ rows).float(), (flat.T @ low).float().mul_(weights.SCALE)
        out, row, col = [], 0, 0
        for height, rank in ctx.sizes:
            out += [grad_a[col:col + rank], grad_b[row:row + height, col:col + rank]]
            row, col = row + height, col + rank
        return grad_x.view(*grad.shape[:-1], -1), None, *out


def join(*layers):
    """Puts the weights of layers that share their input into one matrix (each layer keeps a view of its rows); returns the
    product with it."""
    weight = torch.cat([layer.weight.data for layer in layers])
    for layer, part in zip(layers, weight.split([len(layer.weight) for layer in layers])):
        layer.weight.data = part

    def product(x):
        if not LowRank.active:
            return F.linear(x, weight)
        return Products.apply(x, weight, *(f for layer in layers for f in (layer.low_rank.a, layer.low_rank.b)))
    return product


def _heads(joint, cos, sin, heads, kv_heads):
    """Rotated queries, rotated keys and values, each [B, heads, n, 64], out of their joint rows."""
    q, k, v = (x.unflatten(-1, (-1, 64)).transpose(1, 2) for x in joint.split((heads * 64, kv_heads * 64, kv_heads * 64), -1))
    return _rotate(q, cos, sin), _rotate(k, cos, sin), v.contiguous()


def _gated(joint):
    gate, up = joint.chunk(2, -1)
    return F.silu(gate) * up


class Attention(model_module.Attention):
    def prepare(self):
        self.qkv, self.out = join(self.q_proj, self.k_proj, self.v_proj), join(self.o_proj)

    def forward(self, x, cos, sin, video, groups, made):
        if made is not None:
            raise ValueError("the layers of this decoder attend to keys of their own")
        b, n, _ = x.shape
        out = slot_attention(*fused.heads(self.qkv(x), cos, sin, self.nh, self.nkv), video, groups)
        return self.out(out.transpose(1, 2).reshape(b, n, -1)), None


class MLP(model_module.MLP):
    def prepare(self):
        self.wide, self.narrow = join(self.gate_proj, self.up_proj), join(self.down_proj)

    def forward(self, x):
        return self.narrow(fused.gated(self.wide(x)))


class fused:
    heads, gated = _heads, _gated

    @classmethod
    def enable(cls):
        """Compiles the element-wise chains, here and in the training module."""
        model_module.fused.enable()
        cls.heads, cls.gated = (torch.compile(f, dynamic=True) for f in (_heads, _gated))


def products(model):
    """(name, layer) of every decoder product that has a low-rank update."""
    return [(name, m) for name, m in model.model.named_modules() if isinstance(m, nn.Linear)]


def fastest_dtype():
    """bf16 where the processor multiplies it, else f32: without such products oneDNN widens bf16 piece by piece."""
    try:
        with open("/proc/cpuinfo") as f:
            bf16 = "avx512_bf16" in f.read()
    except OSError:
        bf16 = False
    return torch.bfloat16 if bf16 else torch.float32


def build(reader, tower, dtype, rank=RANK):
    """The model before training: decoder from the GGUF in `dtype`, `tower`, and low-rank updates that change nothing yet."""
    with torch.device("meta"):
        model = DemoModel(language.config())
    model = model.to_empty(device="cpu")
    state = {**language.weights(reader), **weights.untrained_tower(tower, language.config())}
    for name, layer in products(model):
        layer.bias = None                                    # zero by construction; the export writes them
    model.load_state_dict({name: torch.tensor(values) for name, values in state.items()})
    for p in model.model.parameters():
        p.requires_grad_(False)
    for name, p in model.model.named_parameters():
        if p.dim() == 2:
            p.data = p.data.to(dtype)
    torch.manual_seed(0)
    for _, layer in products(model):
        layer.low_rank = LowRank(layer, rank)
    for layer in model.model.layers:
        layer.self_attn.__class__, layer.mlp.__class__ = Attention, MLP
        layer.self_attn.prepare()
        layer.mlp.prepare()
    return model


def learned(model):
    """What training changes, by name: the tower and the factors."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def packer(reader):
    return Packer(language.tokenizer(reader), language.HEAD)


def read_text(model, ids):
    """Final hidden states [B, n, hidden] of texts [B, n]."""
    text, (b, n) = model.model, ids.shape
    x = text.embed_tokens(ids)
    cos, sin = text.rope(torch.arange(n).expand(3, b, n), x.dtype)
    for layer in text.layers:
        x, _ = layer(x, cos, sin, n, ())
    return text.norm(x)


def word_labels(cells):
    """{kind: index of the word per cell, -1 where the cell shows nothing of the kind} for cells [.., 6] of batches.cell_labels.

    An object's cell gets the quadrant where the object appeared: it starts in the half that it moves away from.
    """
    colour, shape, motion, _, third, quadrant = cells.unbind(-1)
    on = colour > 0
    height, side = quadrant // 2, quadrant % 2
    height = torch.where(on & (motion == 4), 1, torch.where(on & (motion == 5), 0, height))
    side = torch.where(on & (motion == 2), 1, torch.where(on & (motion == 3), 0, side))
    none = torch.full_like(colour, -1)
    return {"colour": torch.where(on, colour - 1, none), "shape": torch.where(on, shape - 1, none),
            "motion": torch.where(on, motion - 1, none), "time": third, "height": height, "side": side,
            "nothing": torch.where(colour == 0, 0, none)}


class Reader:
    """Compares merged tokens with the words for what their cells show."""

    def __init__(self, packer, embedding):
        self.words = {kind: embedding[[packer.ids(" " + w)[0] for w in words]].float() for kind, (words, _) in WORDS.items()}
        typical = sum(weight * self.words[k].mean(0) for k, (_, weight) in WORDS.items() if k != "nothing")
        self.scale = NORM / typical.norm().item()

    def target(self, labels):
        out = 0.0
        for kind, (_, weight) in WORDS.items():
            on = (labels[kind] >= 0)[..., None]
            out = out + self.scale * weight * self.words[kind][labels[kind].clamp(min=0)] * on
        return out

    def loss(self, seen, cells):
        """Distance to the target, plus a classification of every kind by the product with its words, and the share of object
        cells (of all cells for time and place) that the latter gets right. Objects weigh as much as all other cells together."""
        seen, labels = seen.float(), word_labels(cells)
        on, off = (cells[..., 0] > 0).float(), (cells[..., 0] == 0).float()
        share = 0.5 * (on / on.sum().clamp(min=1) + off / off.sum().clamp(min=1))
        far = ((seen - self.target(labels)).pow(2).sum(-1) * share).sum() / (0.25 * NORM ** 2)
        named, right = 0.0, {}
        for kind, words in self.words.items():
            if kind == "nothing":
                continue
            centred = words - words.mean(0)
            gain = 6.0 / (self.scale * WORDS[kind][1] * centred.pow(2).sum(-1).mean())
            logits, want = gain * (seen - seen.detach().mean((0, 1))) @ centred.T, labels[kind]
            known = (want >= 0) & (cells[..., 0] >= 0)
            each = F.cross_entropy(logits.flatten(0, -2), want.clamp(min=0).flatten(), reduction="none").view(want.shape)
            weight = share * known
            named = named + (each * weight).sum() / weight.sum().clamp(min=1e-9)
            where = known & (cells[..., 0] > 0) if kind in ("colour", "shape", "motion") else known
            right[kind] = (logits.argmax(-1) == want)[where].float().mean().item()
        return far, named / (len(self.words) - 1), right
