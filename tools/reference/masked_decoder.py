"""A Qwen2.5-VL decoder in float64 whose cache is never shortened: evicted entries are masked, per layer and KV head.

Linear layers, norms' weights, MLP and rotation are transformers' own modules; attention is written out here. What a token reads is then
visible, and an engine that really removes entries must come out the same.
"""
import math

import numpy as np
import torch
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as hf

import reference_model
from policy_definitions import HOLDS, Part, protected_spans


def _rms_norm(self, x):
    """transformers' own casts to float32."""
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


class Decoder:
    def __init__(self, folder):
        hf.Qwen2RMSNorm.forward = _rms_norm
        whole = reference_model.load(folder)
        self.config = whole.config
        text = whole.config.text_config
        self.body, self.head = whole.model.language_model.double(), whole.lm_head.double()
        self.layers, self.heads, self.kv_heads = text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads
        self.head_dim = text.hidden_size // text.num_attention_heads
        self.sections = text.rope_scaling["mrope_section"]
        self.inv_freq = self.body.rotary_emb.inv_freq.double()

    def project(self, layer: int, x: torch.Tensor, positions: torch.Tensor) -> dict:
        """x [n, hidden], positions [3, n] -> q_raw, q [H, n, d], k, v [G, n, d]."""
        block = self.body.layers[layer]
        y = block.input_layernorm(x)
        split = lambda t: t.unflatten(-1, (-1, self.head_dim)).transpose(0, 1)
        attention = block.self_attn
        q_raw, k_raw, v = (split(p(y)) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        cos, sin = self.body.rotary_emb(x[None], positions[:, None])
        q, k = hf.apply_multimodal_rotary_pos_emb(q_raw[None], k_raw[None], cos, sin, self.sections)
        return {"q_raw": q_raw, "q": q[0], "k": k[0], "v": v}

    def attend(self, q, k, v, alive, first: int, want_rows: bool = False):
        """Queries of sequence indices first.. over keys [G, M, d] of indices 0..M-1, of which `alive` [G, M] can be read."""
        group = self.heads // self.kv_heads
        k, v, alive = (t.repeat_interleave(group, 0) for t in (k, v, alive))
        out, rows = [], []
        for begin in range(0, q.shape[1], 512):
            part = q[:, begin:begin + 512]
            at = torch.arange(first + begin, first + begin + part.shape[1])
            unseen = (torch.arange(k.shape[1])[None, :] > at[:, None])[None] | ~alive[:, None]
            a = (part @ k.transpose(1, 2) / math.sqrt(self.head_dim)).masked_fill(unseen, -math.inf).softmax(-1)
            out.append(a @ v)
            rows += [a] if want_rows else []
        return torch.cat(out, 1), rows

    def finish(self, layer: int, x, attended):
        block = self.body.layers[layer]
        x = x + block.self_attn.o_proj(attended.transpose(0, 1).flatten(1))
        return x + block.mlp(block.post_attention_layernorm(x))

    def logits(self, x):
        return self.head(self.body.norm(x))


class Prompt:
    """One prompt as the engine read it: its embeddings, positions and every layer's input, dumped by the engine itself.

    Each layer's Q, K, V are computed from the dumped input of that layer, so that rounding does not add up over the layers;
    `chain` is the largest relative difference of a layer's output, computed here, from the dumped input of the next."""

    def __init__(self, decoder: Decoder, folder):
        load = lambda name: np.load(folder / f"{name}.npy")
        self.decoder = decoder
        self.ids = load("input_ids").tolist()
        self.positions = torch.from_numpy(load("position_ids")).long()
        self.n = len(self.ids)
        c = decoder.config
        self.visual = np.isin(self.ids, (c.image_token_id, c.video_token_id))
        ends = [i for i, t in enumerate(self.ids) if t == c.vision_end_token_id]
        self.media_end = ends[-1] + 1 if self.visual.any() else None
        inputs = [torch.from_numpy(load(f"hidden_{l:02d}")).double() for l in range(decoder.layers + 1)]
        self.embeddings = inputs[0]
        self.layers, self.chain = [], 0.0
        everything = torch.ones(decoder.kv_heads, self.n, dtype=torch.bool)
        for l in range(decoder.layers):
            data = decoder.project(l, inputs[l], self.positions)
            attended, _ = decoder.attend(data["q"], data["k"], data["v"], everything, 0)
            out = decoder.finish(l, inputs[l], attended)
            self.chain = max(self.chain, float((out - inputs[l + 1]).norm() / inputs[l + 1].norm()))
            self.layers.append(data)
        self.last_logits = decoder.logits(inputs[-1][-1:])[0]
        self._parts = {}

    def part(self, when: str) -> Part:
        end = self.n if when == "prompt" else self.media_end
        if end not in self._parts:
            cut = [{name: t[:, :end] for name, t in data.items()} for data in self.layers]
            self._parts[end] = Part(cut, self.visual[:end], self.positions[:, :end].numpy(), self.decoder.inv_freq)
        return self._parts[end]


class MaskedCache:
    """The cache after compression: keys and values of the part, and which of them each layer and KV head still has.

    `kept[layer][head]`: positions. `advance` reads further tokens; the decode-time rules run in `step`."""

    def __init__(self, prompt: Prompt, part: Part, kept, policy: str, options: dict, base: int):
        self.prompt, self.decoder = prompt, prompt.decoder
        self.policy, self.base, self.length = policy, base, part.n
        self.sinks, self.recent = protected_spans(policy, options, base)
        self.k = [d["k"] for d in part.layers]
        self.v = [d["v"] for d in part.layers]
        self.alive = []
        for heads in kept:
            mask = torch.zeros(len(heads), part.n, dtype=torch.bool)
            for g, positions in enumerate(heads):
                mask[g, positions] = True
            self.alive.append(mask)
        self.mass = None
        if policy == "h2o":
            self.mass = [torch.from_numpy(part.group_mean(part.attention_sum(l, part.n))) for l in range(self.decoder.layers)]
        rest = part.n, prompt.n
        self.last = prompt.last_logits
        if rest[0] < rest[1]:
            hidden = self.advance(prompt.embeddings[rest[0]:], prompt.positions[:, rest[0]:])
            self.last = self.decoder.logits(hidden[-1:])[0]
        self.capacity = [m.sum(1) for m in self.alive]
        self.next_position = int(prompt.positions[:, -1].max()) + 1

    def advance(self, x, positions):
        """Appends these tokens to every layer's cache and returns the last layer's output; evicts nothing."""
        d, count = self.decoder, x.shape[0]
        self.rows = []
        for l in range(d.layers):
            new = d.project(l, x, positions)
            self.k[l], self.v[l] = torch.cat([self.k[l], new["k"]], 1), torch.cat([self.v[l], new["v"]], 1)
            self.alive[l] = torch.cat([self.alive[l], torch.ones(d.kv_heads, count, dtype=torch.bool)], 1)
            attended, rows = d.attend(new["q"], self.k[l], self.v[l], self.alive[l], self.length, self.policy in HOLDS)
            x = d.finish(l, x, attended)
            self.rows.append(rows)
            if self.mass is not None:
                added = sum(r.sum(1) for r in rows).unflatten(0, (d.kv_heads, -1)).mean(1)
                added[:, : self.mass[l].shape[1]] += self.mass[l]
                self.mass[l] = added
        self.length += count
        return x

    def step(self, token: int):
        """Feeds one token; the logits that predict the next. Then the decode-time eviction of the policies that hold."""
        position = torch.full((3, 1), self.next_position)
        self.next_position += 1
        x = self.decoder.body.embed_tokens(torch.tensor([token]))
        logits = self.decoder.logits(self.advance(x, position))[0]
        if self.policy in HOLDS:
            for l in range(self.decoder.layers):
                self._evict(l)
        return logits

    def _evict(self, layer: int) -> None:
        alive = self.alive[layer]
        for g in range(self.decoder.kv_heads):
            here = alive[g].nonzero()[:, 0].tolist()
            surplus = len(here) - int(self.capacity[layer][g])
            if surplus <= 0:
                continue
            if self.policy == "streaming-llm":
                gone = [j for j in here if j >= self.sinks][:surplus]
            else:
                if self.policy == "h2o":
                    score, candidates = self.mass[layer][g], here[: len(here) - self.recent]
                else:
                    score = self.rows[layer][-1][:, -1].mean(0)
                    candidates = here[self.sinks: len(here) - self.recent]
                gone = sorted(candidates, key=lambda j: (float(score[j]), -j))[:surplus]
            alive[g, gone] = False
