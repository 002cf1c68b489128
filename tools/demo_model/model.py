"""Qwen2.5-VL in plain, fully batched torch, for training the demo model.

The mathematics and the parameter names are those of the published model (visual.*, model.*), so that a state dict is
already the export. What differs from the transformers class is speed: the tower handles all slices of all videos of a
batch as one tensor, with windows as a mask inside a slice. check_hf.py proves that both give the same logits.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

from config import MEAN, STD, Config

def patchify(frames):
    """uint8 [B, 2T, S, S, 3] -> normalised float [B, T, S/14*S/14, 1176], rows in 2x2-block order, columns (c, t, y, x)."""
    b, f, s, _, _ = frames.shape
    g = s // 28
    mean = torch.tensor(MEAN, device=frames.device) * 255
    std = torch.tensor(STD, device=frames.device) * 255
    x = (frames.float() - mean) / std
    x = x.view(b, f // 2, 2, g, 2, 14, g, 2, 14, 3).permute(0, 1, 3, 6, 4, 7, 9, 2, 5, 8)
    return x.reshape(b, f // 2, g * g * 4, 1176)


def linear(layer, x):
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.linear(x, layer.weight.to(x.dtype), bias)


# The element-wise chains below cost as much as the matrix products when every step of them walks through memory;
# torch.compile fuses each into one loop. They are small, so that compiling takes seconds, and shapes stay dynamic, so
# that no new length compiles again.
def _norm(x, weight, eps):
    h = x.float()
    return (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def _gate(gate, up):
    return F.silu(gate) * up


def _rotate(x, cos, sin):
    """Rotate-half RoPE; x [.., n, d], cos/sin broadcast over heads."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


def hidden(rows, columns, window):
    """Which of `columns` (token indices) a row cannot see: later ones, and those that its window has left."""
    later = rows[:, None] < columns
    return later if window == 0 else later | (rows[:, None] - columns >= window)


def _causal(s, window):
    """Softmax of square scores below the diagonal."""
    row = torch.arange(s.shape[-1], device=s.device)
    return torch.softmax(s.float().masked_fill(hidden(row, row, window), float("-inf")), -1).to(s.dtype)


def _slots(far, near, window):
    """One softmax over the prefix's scores `far` [B, kv heads, rep, count, length, video] and a slot's own, `near` [B, kv heads,
    count, rep, length, length], causal; each part comes back as a matrix per KV head or per slot."""
    length, row = near.shape[-1], torch.arange(near.shape[-1], device=near.device)
    f, n = far.float(), near.transpose(2, 3).float().masked_fill(hidden(row, row, window), float("-inf"))
    if window:
        video = far.shape[-1]
        f = f.masked_fill(hidden(row + video, torch.arange(video, device=far.device), window), float("-inf"))
    top = torch.maximum(f.amax(-1, keepdim=True), n.amax(-1, keepdim=True)).detach()
    f, n = torch.exp(f - top), torch.exp(n - top)
    total = 1 / (f.sum(-1, keepdim=True) + n.sum(-1, keepdim=True))
    return (f * total).to(far.dtype).flatten(2, 4), (n * total).to(near.dtype).transpose(2, 3).flatten(3, 4)


class fused:
    """The functions in use: eager until `enable` compiles them."""
    norm, gate, rotate, causal, slots = _norm, _gate, _rotate, _causal, _slots

    @classmethod
    def enable(cls):
        for f in (_norm, _gate, _rotate, _causal, _slots):
            setattr(cls, f.__name__[1:], staticmethod(torch.compile(f, dynamic=True)))


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return fused.norm(x, self.weight, self.eps)


class MLP(nn.Module):
    def __init__(self, size, inner, bias):
        super().__init__()
        self.gate_proj = nn.Linear(size, inner, bias=bias)
        self.up_proj = nn.Linear(size, inner, bias=bias)
        self.down_proj = nn.Linear(inner, size, bias=bias)

    def forward(self, x):
        return linear(self.down_proj, fused.gate(linear(self.gate_proj, x), linear(self.up_proj, x)))


def attend(q, k, v, mask=None):
    """Plain softmax attention. For the short sequences here two batched products beat the fused CPU kernel, whose
    backward pass took a third of a step."""
    s = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    if mask is not None:
        s = s.masked_fill(~mask, float("-inf"))
    return torch.matmul(torch.softmax(s, -1, dtype=torch.float32).to(q.dtype), v)


class VisionAttention(nn.Module):
    def __init__(self, size, heads):
        super().__init__()
        self.qkv = nn.Linear(size, 3 * size)
        self.proj = nn.Linear(size, size)
        self.heads = heads

    def forward(self, x, cos, sin, mask):
        n, p, d = x.shape
        q, k, v = linear(self.qkv, x).view(n, p, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        out = attend(fused.rotate(q, cos, sin), fused.rotate(k, cos, sin), v, mask)
        return linear(self.proj, out.transpose(1, 2).reshape(n, p, d))


class VisionBlock(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        d = cfg.vision_hidden_size
        self.norm1, self.norm2 = RMSNorm(d, 1e-6), RMSNorm(d, 1e-6)
        self.attn = VisionAttention(d, cfg.vision_num_heads)
        self.mlp = MLP(d, cfg.vision_intermediate_size, bias=True)

    def forward(self, x, cos, sin, mask):
        x = x + self.attn(self.norm1(x), cos, sin, mask)
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.proj = nn.Conv3d(3, size, (2, 14, 14), stride=(2, 14, 14), bias=False)

    def forward(self, x):
        return F.linear(x, self.proj.weight.flatten(1).to(x.dtype))


class Merger(nn.Module):
    def __init__(self, size, out):
        super().__init__()
        self.ln_q = RMSNorm(size, 1e-6)
        self.mlp = nn.Sequential(nn.Linear(4 * size, 4 * size), nn.GELU(), nn.Linear(4 * size, out))
        self.size = size

    def forward(self, x):
        x = self.ln_q(x).reshape(x.shape[0], -1, 4 * self.size)
        return linear(self.mlp[2], F.gelu(linear(self.mlp[0], x)))


class Vision(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.patch_embed = PatchEmbed(cfg.vision_hidden_size)
        self.blocks = nn.ModuleList(VisionBlock(cfg) for _ in range(cfg.vision_depth))
        self.merger = Merger(cfg.vision_hidden_size, cfg.hidden_size)
        self.tables = {}

    def table(self, grid, device, dtype):
        """cos, sin [patches, head dim] and the window mask (None when one window covers the slice)."""
        key = (grid, str(device), dtype)
        if key not in self.tables:
            unit = torch.arange(grid * grid)
            uy, ux = unit // grid, unit % grid
            y = (uy[:, None] * 2 + torch.tensor([0, 0, 1, 1])).flatten().float()
            x = (ux[:, None] * 2 + torch.tensor([0, 1, 0, 1])).flatten().float()
            dim = self.cfg.vision_hidden_size // self.cfg.vision_num_heads // 2
            inv = 10000.0 ** (-torch.arange(0, dim, 2).float() / dim)
            angle = torch.cat([y[:, None] * inv, x[:, None] * inv], dim=1).repeat(1, 2)
            side = self.cfg.window_size // 28
            window = ((uy // side) * 1000 + ux // side).repeat_interleave(4)
            mask = None if grid <= side else (window[:, None] == window[None]).to(device)
            self.tables[key] = (angle.cos().to(device, dtype), angle.sin().to(device, dtype), mask)
        return self.tables[key]

    def forward(self, patches):
        """[n slices, patches, 1176] -> merged tokens [n, patches / 4, out]. Slices never see each other."""
        grid = math.isqrt(patches.shape[1]) // 2
        cos, sin, window = self.table(grid, patches.device, patches.dtype)
        x = self.patch_embed(patches)
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, None if i in self.cfg.vision_fullatt else window)
        return self.merger(x)


def slot_attention(q, k, v, video, groups, window=0):
    """Causal attention for a prefix of `video` rows followed by groups of independent slots.

    q [B, heads, L, d]; k, v [B, kv heads, L, d]. A group (count, length) is `count` slots of `length` rows; a row sees
    the whole prefix and the earlier rows of its own slot. Same result as one masked softmax over all rows, at a third
    of the work, because the rows of different slots are never multiplied.
    """
    b, h, _, d = q.shape
    nkv = k.shape[1]
    rep = h // nkv
    scale = d ** -0.5
    # Split, not sliced: the gradient of a split is one concatenation, that of every slice a sum over all rows.
    parts = [x.split([video] + [count * length for count, length in groups], 2) for x in (q, k, v)]
    first, kv, vv = (part[0] for part in parts)
    heads = first, kv.repeat_interleave(rep, 1), vv.repeat_interleave(rep, 1)
    if video > 1024 and not window:
        out = [F.scaled_dot_product_attention(*heads, is_causal=True)]
    else:
        out = [torch.matmul(fused.causal(torch.matmul(heads[0] * scale, heads[1].transpose(-1, -2)), window), heads[2])]
    for (count, length), qg, kg, vg in zip(groups, *(part[1:] for part in parts)):
        rows = count * length
        qg = qg.reshape(b, nkv, rep * rows, d) * scale
        qs = qg.view(b, nkv, rep, count, length, d).transpose(2, 3).reshape(b, nkv, count, rep * length, d)
        ks, vs = (x.reshape(b, nkv, count, length, d) for x in (kg, vg))
        far = torch.matmul(qg, kv.transpose(-1, -2)).view(b, nkv, rep, count, length, video)
        near = torch.matmul(qs, ks.transpose(-1, -2)).view(b, nkv, count, rep, length, length)
        pf, pn = fused.slots(far, near, window)
        near_out = torch.matmul(pn, vs).view(b, nkv, count, rep, length, d).transpose(2, 3).reshape(b, nkv, rep * rows, d)
        out.append((torch.matmul(pf, vv) + near_out).view(b, h, rows, d))
    return torch.cat(out, 2)


class Attention(nn.Module):
    def __init__(self, cfg, layer):
        super().__init__()
        self.nh, self.nkv = cfg.num_attention_heads, cfg.num_key_value_heads
        self.hd = cfg.hidden_size // self.nh
        self.q_proj = nn.Linear(cfg.hidden_size, self.nh * self.hd)
        self.window, self.reads = cfg.window(layer), cfg.kv_layer(layer) != layer
        if not self.reads:
            self.k_proj = nn.Linear(cfg.hidden_size, self.nkv * self.hd)
            self.v_proj = nn.Linear(cfg.hidden_size, self.nkv * self.hd)
        self.o_proj = nn.Linear(self.nh * self.hd, cfg.hidden_size, bias=False)

    def forward(self, x, cos, sin, video, groups, made):
        """made: rotated keys, and values, of a lower layer to attend to; None: the layer's own. Returns those attended to, too."""
        b, n, _ = x.shape
        q = linear(self.q_proj, x).view(b, n, self.nh, self.hd).transpose(1, 2)
        if made is None:
            k = linear(self.k_proj, x).view(b, n, self.nkv, self.hd).transpose(1, 2)
            v = linear(self.v_proj, x).view(b, n, self.nkv, self.hd).transpose(1, 2)
            made = fused.rotate(k, cos, sin), v
        out = slot_attention(fused.rotate(q, cos, sin), *made, video, groups, self.window)
        return linear(self.o_proj, out.transpose(1, 2).reshape(b, n, -1)), made


class Layer(nn.Module):
    def __init__(self, cfg, layer):
        super().__init__()
        self.input_layernorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.self_attn = Attention(cfg, layer)
        self.mlp = MLP(cfg.hidden_size, cfg.intermediate_size, bias=False)

    def forward(self, x, cos, sin, video, groups, made=None):
        attended, made = self.self_attn(self.input_layernorm(x), cos, sin, video, groups, made)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), made


class Text(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.embed_tokens = nn.Embedding(cfg.vocab_size, cfg.hidden_size)
        self.layers = nn.ModuleList(Layer(cfg, i) for i in range(cfg.num_hidden_layers))
        self.norm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)

    def rope(self, positions, dtype):
        """positions [3, B, n] -> cos, sin [B, 1, n, head dim], the axis chosen per frequency by mrope_section."""
        dim = self.cfg.hidden_size // self.cfg.num_attention_heads
        inv = self.cfg.rope_theta ** (-torch.arange(0, dim, 2, device=positions.device).float() / dim)
        angle = positions.float()[..., None] * inv
        parts = angle.split(self.cfg.mrope_section, dim=-1)
        angle = torch.cat([part[i] for i, part in enumerate(parts)], dim=-1).repeat(1, 1, 2)[:, None]
        return angle.cos().to(dtype), angle.sin().to(dtype)


class DemoModel(nn.Module):
    """`visual` and `model` as published; the head is the transposed embedding (tied)."""

    def __init__(self, cfg=None, seed=0):
        super().__init__()
        self.cfg = cfg or Config()
        torch.manual_seed(seed)
        self.visual = Vision(self.cfg)
        self.model = Text(self.cfg)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif "embed_tokens" in name:
                nn.init.normal_(p, std=0.05)
            elif p.dim() > 1:
                # projections back into the residual stream start at zero: every block is the identity at first
                back = name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight"))
                nn.init.normal_(p, std=0.0 if back else 1 / math.sqrt(p[0].numel()))

    def see(self, patches, frozen=False):
        """The tower's tokens [B, N, hidden] of patches [B, T, P, 1176]."""
        b, t, p, k = patches.shape
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return self.visual(patches.view(b * t, p, k)).view(b, t * p // 4, -1)

    def forward(self, patches, prefix, text, positions, groups, tap=(), frozen=False, active=None,
                text_tap=()):
        """Final hidden states of the slots' rows, the tower's tokens, and {layer: its visual rows} for layers in `tap`,
        and as {("text", layer): the slots' rows} for those in `text_tap`.

        patches [B, T, P, 1176]; prefix [n0] ids before the video; text [B, 1 + n]: <|vision_end|>, then the rows of all
        slots; positions [3, B, n0+N+1+n]; groups [(slots, rows per slot), ..] with n rows together. Computes in the
        dtype of `patches`. `frozen` keeps gradients out of the tower. Only the first `active` layers run if given:
        exact while the others still have their initial weights, which make them the identity.
        """
        seen = self.see(patches, frozen)
        embed = self.model.embed_tokens
        x = torch.cat([embed(prefix).to(seen.dtype).expand(len(seen), -1, -1), seen, embed(text).to(seen.dtype)], dim=1)
        cos, sin = self.model.rope(positions, x.dtype)
        first, last = len(prefix), len(prefix) + seen.shape[1]
        taps, made = {}, {}
        for i, layer in enumerate(self.model.layers[:active]):
            x, made[i] = layer(x, cos, sin, last + 1, groups, made.get(self.cfg.kv_layer(i)))
            if i in tap:
                taps[i] = x[:, first:last]
            if i in text_tap:
                taps["text", i] = x[:, last + 1:]
        return self.model.norm(x[:, last + 1:]), seen, taps

    def logits(self, hidden):
        return F.linear(hidden, self.model.embed_tokens.weight.to(hidden.dtype))
