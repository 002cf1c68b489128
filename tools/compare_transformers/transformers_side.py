"""The demo model in transformers: what every layer computes of a prompt, a cache cut per layer and KV head, greedy answers from it.

Nothing here knows the engine. Shapes: L layers, H query heads, G KV heads, N prompt tokens, d head dim, P caches decoded together.
"""
import sys
from pathlib import Path

import torch
from transformers import DynamicCache
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_multimodal_rotary_pos_emb

TOOLS = Path(__file__).resolve().parent.parent
sys.path += [str(TOOLS / "demo_model"), str(TOOLS / "reference")]
import hf                       # noqa: E402
import policy_definitions as pd  # noqa: E402


class Prompt:
    """One prompt, read once: keys and values [L][1, G, N, d], logits of its last token, and a `Part` of all Q, K, V in float64."""

    def __init__(self, batch, cache, layers, positions, logits, config, inv_freq):
        self.batch = batch
        self.n = batch["input_ids"].shape[1]
        self.positions = positions                   # [3, N]
        self.next_position = int(positions.max()) + 1
        self.keys = [layer.keys for layer in cache.layers]
        self.values = [layer.values for layer in cache.layers]
        self.logits = logits                         # [vocabulary]
        visual = (batch["input_ids"][0] == config.video_token_id).numpy()
        self.part = pd.Part(layers, visual, positions.numpy(), inv_freq)


class Model:
    def __init__(self, folder):
        self.whole, self.processor = hf.load(str(folder))
        self.text = self.whole.model.language_model
        self.text.config._attn_implementation = "eager"  # kvpress reads attention weights, which only this one returns
        hf.cache_tower(self.whole)
        self.layers = self.text.config.num_hidden_layers
        self.kv_heads = self.text.config.num_key_value_heads
        ends = self.whole.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends])

    def batch(self, question, frames):
        return hf.inputs(self.processor, question, frames)

    def prefill(self, batch) -> DynamicCache:
        cache = DynamicCache()
        self.last = self.whole(**batch, past_key_values=cache, use_cache=True).logits[0, -1]
        return cache

    def read(self, batch) -> Prompt:
        captured = {}

        def capture(module, _, kwargs, __):
            split = lambda t: t.unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
            q_raw, k_raw = split(module.q_proj(kwargs["hidden_states"])), split(module.k_proj(kwargs["hidden_states"]))
            q, _ = apply_multimodal_rotary_pos_emb(q_raw, k_raw, *kwargs["position_embeddings"], module.rope_scaling["mrope_section"])
            captured[module.layer_idx] = {"q_raw": q_raw[0].double(), "q": q[0].double()}

        hooks = [layer.self_attn.register_forward_hook(capture, with_kwargs=True) for layer in self.text.layers]
        cache = self.prefill(batch)
        for hook in hooks:
            hook.remove()
        layers = []
        for l, entry in enumerate(cache.layers):
            layers.append(captured[l] | {"k": entry.keys[0].double(), "v": entry.values[0].double()})
        positions, _ = self.whole.model.get_rope_index(batch["input_ids"], None, batch["video_grid_thw"],
                                                       batch.get("second_per_grid_ts"), batch["attention_mask"])
        return Prompt(batch, cache, layers, positions[:, 0], self.last, self.whole.config, self.text.rotary_emb.inv_freq.double())

    def answers(self, prompt: Prompt, caches: list, limit: int, holds: list) -> list:
        """Greedy answers [(ids, log-probabilities)] from P caches [L][(keys, values)], each [G, M, d] with an M of its own.

        New tokens get their true positions. `holds[p]`: None, or the index whose entry is evicted from every list of cache p after each
        step. Shorter caches are padded in front, where a mask hides the padding."""
        lengths = [c[0][0].shape[1] for c in caches]
        longest = max(lengths)
        cache = DynamicCache()
        padded = lambda t: torch.nn.functional.pad(t, (0, 0, longest - t.shape[1], 0))
        for l in range(self.layers):
            cache.update(torch.stack([padded(c[l][0]) for c in caches]), torch.stack([padded(c[l][1]) for c in caches]), l)
        mask = torch.stack([torch.arange(longest) >= longest - n for n in lengths]).long()
        gone = None if holds[0] is None else [longest - n + hold for n, hold in zip(lengths, holds)]
        assert all((h is None) == (gone is None) for h in holds), "caches that evict and caches that grow are decoded apart"
        logits = prompt.logits.expand(len(caches), -1)
        ids, logprobs, running = [[] for _ in caches], [[] for _ in caches], [True] * len(caches)
        for step in range(limit):
            table = logits.log_softmax(-1)
            chosen = table.argmax(-1)
            for i, token in enumerate(chosen.tolist()):
                if running[i]:
                    ids[i].append(token)
                    logprobs[i].append(float(table[i, token]))
                    running[i] = token not in self.ends
            if not any(running) or step + 1 == limit:
                break
            where = torch.full((3, len(caches), 1), prompt.next_position + step)
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            hidden = self.text(inputs_embeds=self.text.embed_tokens(chosen[:, None]), position_ids=where, past_key_values=cache,
                               attention_mask=mask, cache_position=torch.tensor([mask.shape[1] - 1]), use_cache=True).last_hidden_state
            logits = self.whole.lm_head(hidden[:, -1])
            if gone is not None:
                left = torch.stack([torch.cat([torch.arange(i), torch.arange(i + 1, mask.shape[1])]) for i in gone])
                mask = mask.gather(1, left)
                for layer in cache.layers:
                    at = left[:, None, :, None].expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3])
                    layer.keys, layer.values = layer.keys.gather(2, at), layer.values.gather(2, at)
        return list(zip(ids, logprobs))


def cut(prompt: Prompt, kept) -> list:
    """The cache that is left of a prompt: kept[l][g] lists positions, equally many of every head."""
    out = []
    for keys, values, heads in zip(prompt.keys, prompt.values, kept):
        take = lambda t: torch.stack([t[0, g, torch.tensor(positions)] for g, positions in enumerate(heads)])
        out.append((take(keys), take(values)))
    return out
