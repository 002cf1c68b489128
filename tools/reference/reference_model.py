"""Runs the transformers model and hands out what the engine must reproduce: stages, logits, greedy ids, log-probabilities.

float32, eager attention. Positions are computed by the model's own get_rope_index and checked against `rope_positions`,
the definition written out, so that a change of transformers' rules cannot slip into the data.
"""
import inspect

import torch
import torch.nn.functional as F


def load(folder, dtype=torch.float32):
    """from_pretrained, not .to(dtype): the latter would round the rotary tables' inv_freq buffers as well."""
    from transformers import AutoModelForImageTextToText
    model, info = AutoModelForImageTextToText.from_pretrained(
        str(folder), dtype=dtype, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.eval()


def rope_positions(runs, tokens_per_second) -> tuple[torch.Tensor, int]:
    """M-RoPE ids by definition. `runs`: ("text", n) or ("media", gt, H, W, seconds per grid step) in merged units.

    T = next + trunc(t * s * tokens_per_second) in float32, as Qwen's own rope2d.py multiplies; tokens_per_second None is
    Qwen2-VL: T = next + t. Returns int64 [3, N] and the delta."""
    blocks, start, length = [], 0, 0
    for run in runs:
        if run[0] == "text":
            block = torch.arange(run[1]).expand(3, -1)
        else:
            _, gt, height, width, seconds = run
            t = torch.arange(gt)
            if tokens_per_second is not None:
                t = (t * seconds * tokens_per_second).long()
            block = torch.stack([g.flatten() for g in torch.meshgrid(t, torch.arange(height), torch.arange(width), indexing="ij")])
        if block.shape[1] == 0:
            continue
        blocks.append(block + start)
        start = int(blocks[-1].max()) + 1
        length += block.shape[1]
    return torch.cat(blocks, dim=1), start - length


class Prompt:
    """Ids and media of one prompt: `media` is a list of (kind, patches, grid) in the order of their placeholders."""

    def __init__(self, model, ids, media):
        config = model.config
        self.ids = torch.tensor([ids])
        self.media = media
        pad = {"image": config.image_token_id, "video": config.video_token_id}
        runs, at = [], 0
        for kind, _, (gt, gh, gw) in media:
            begin = ids.index(pad[kind], at)
            runs += [("text", begin - at), ("media", gt, gh // 2, gw // 2, 1.0)]
            at = begin + gt * gh * gw // 4
            assert ids[begin:at] == [pad[kind]] * (at - begin) and (at == len(ids) or ids[at] != pad[kind])
        runs.append(("text", len(ids) - at))
        # Not by config.model_type: where text_config has one too, transformers' attribute forwarding returns that.
        tps = getattr(config.vision_config, "tokens_per_second", None)
        self.positions, self.delta = rope_positions(runs, tps)
        self._check_positions(model)

    def inputs(self) -> dict:
        """Keyword arguments of the model for the media; images and videos travel apart."""
        result = {}
        for kind, pixels, grid in (("image", "pixel_values", "image_grid_thw"), ("video", "pixel_values_videos", "video_grid_thw")):
            own = [m for m in self.media if m[0] == kind]
            if own:
                result[pixels] = torch.cat([m[1] for m in own])
                result[grid] = torch.tensor([m[2] for m in own])
        return result

    def _check_positions(self, model) -> None:
        given = {k: v for k, v in self.inputs().items() if k.endswith("thw")}
        if "second_per_grid_ts" in inspect.signature(model.model.get_rope_index).parameters and "video_grid_thw" in given:
            given["second_per_grid_ts"] = torch.ones(len(given["video_grid_thw"]))
        positions, delta = model.model.get_rope_index(self.ids, **given)
        assert torch.equal(positions[:, 0], self.positions) and int(delta) == self.delta


@torch.no_grad()
def vision_rows(model, prompt: Prompt) -> torch.Tensor:
    """[visual tokens, H] in prompt order."""
    rows = [model.model.visual(pixels.to(model.dtype), grid_thw=torch.tensor([grid])) for _, pixels, grid in prompt.media]
    return torch.cat(rows)


@torch.no_grad()
def prefill(model, prompt: Prompt):
    """(hidden: input of every layer and of the final norm, each [N, H]; logits [N, vocab]; the cache)."""
    hidden, hooks = [], []

    def keep(_module, args, kwargs):
        hidden.append((args[0] if args else kwargs["hidden_states"])[0].clone())

    for module in [*model.model.language_model.layers, model.model.language_model.norm]:
        hooks.append(module.register_forward_pre_hook(keep, with_kwargs=True))
    # Without a mask, Qwen3-VL's text model takes jumps of T for the borders of packed sequences.
    mask = torch.ones_like(prompt.ids)
    out = model(input_ids=prompt.ids, attention_mask=mask, position_ids=prompt.positions[:, None], use_cache=True, **prompt.inputs())
    for hook in hooks:
        hook.remove()
    return hidden, out.logits[0], out.past_key_values


@torch.no_grad()
def extend(model, cache, ids, first: int, delta: int):
    """Logits [len(ids), vocab] of further tokens; `first` is the sequence index of ids[0]."""
    positions = (torch.arange(first, first + len(ids)) + delta).expand(3, 1, -1)
    out = model(input_ids=torch.tensor([ids]), position_ids=positions, past_key_values=cache, use_cache=True,
                cache_position=torch.arange(first, first + len(ids)))
    return out.logits[0]


def greedy(model, cache, last_logits, first: int, delta: int, count: int, stops) -> dict:
    """Plain argmax decoding; `margin` is the smallest (top1 - top2) / standard deviation of the logits over the steps."""
    ids, logprobs, margins = [], [], []
    logits = last_logits
    while True:
        top = torch.topk(logits, 2)
        ids.append(int(top.indices[0]))
        logprobs.append(float(F.log_softmax(logits.double(), -1)[ids[-1]]))
        margins.append(float((top.values[0] - top.values[1]) / logits.std()))
        if len(ids) == count or ids[-1] in stops:
            break
        logits = extend(model, cache, ids[-1:], first + len(ids) - 1, delta)[-1]
    return {"ids": ids, "logprobs": logprobs, "margin": min(margins), "finish": "stop" if ids[-1] in stops else "length"}


def token_logprobs(rows: torch.Tensor, ids) -> list[float]:
    """log p(ids[i]) under logits row i."""
    table = F.log_softmax(rows.double(), -1)
    return [float(table[i, token]) for i, token in enumerate(ids)]


def divergence(reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(reference || other) per row, in float64."""
    p, q = F.log_softmax(reference.double(), -1), F.log_softmax(other.double(), -1)
    return (p.exp() * (p - q)).sum(-1)
