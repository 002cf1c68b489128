"""What the folders of vision-language families with one position per token share: a decoder of transformers, rows for the media, stages.

A case brings a tokenizer, a decoder (LlamaForCausalLM and such) and functions from media to patches and to rows. Every step is recomputed from the
whole sequence in float32 with eager attention.
"""
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import reference_model as ref
from layout import save_npy, write_json
from make_cases import FIRST, SECOND, save_stage
from random_weights import DTYPES, encode, tensor_f32

LOGIT_ROWS = 6


def stored(name: str, shape, seed: int, dtype: str) -> torch.Tensor:
    """A tensor as the file has it, in float32."""
    values = tensor_f32(name, shape, seed)
    data = encode(values, dtype)
    if dtype == "bf16":
        bits = np.frombuffer(data, dtype="<u2").astype("<u4") << 16
        return torch.from_numpy(bits.view("<f4").reshape(shape).copy())
    kind = {"f32": "<f4", "f16": "<f2"}[dtype]
    assert DTYPES[dtype]
    return torch.from_numpy(np.frombuffer(data, dtype=kind).reshape(shape).astype(np.float32))


def in_bf16(module: torch.nn.Module) -> torch.nn.Module:
    """Parameters alone: rotary tables are buffers and stay as they are."""
    for parameter in module.parameters():
        parameter.data = parameter.data.bfloat16()
    return module


def resized(image: Image.Image, width: int, height: int) -> Image.Image:
    """Bicubic, the passes in the order of Pillow 13 whatever version runs: the vertical one first where the height shrinks much more."""
    if image.width != width and height < image.height and image.height - height > 2 * (image.width - width):
        image = image.resize((image.width, height), Image.Resampling.BICUBIC)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def short_side(image: Image.Image, side: int) -> Image.Image:
    """As transformers' image processors resize to {"shortest_edge": side}."""
    width, height = image.size
    longer = int(side * max(width, height) / min(width, height))
    return resized(image, *((side, longer) if width <= height else (longer, side)))


class Runner:
    """A decoder and the rows of a prompt's media at `places`."""

    def __init__(self, decoder, rows: torch.Tensor, places: list):
        self.decoder, self.rows, self.places = decoder, rows, places
        self.visual = rows  # of them those of visual tokens, where newlines stand between

    @torch.no_grad()
    def run(self, ids: list):
        """(hidden: input of every layer and of the final norm; logits), each [N, ...]."""
        hidden, hooks = [], []

        def keep(_module, args, kwargs):
            hidden.append((args[0] if args else kwargs["hidden_states"])[0].clone())

        for module in [*self.decoder.model.layers, self.decoder.model.norm]:
            hooks.append(module.register_forward_pre_hook(keep, with_kwargs=True))
        embeds = self.decoder.model.embed_tokens(torch.tensor(ids)).clone()
        if self.places:
            embeds[self.places] = self.rows.to(embeds.dtype)
        out = self.decoder(inputs_embeds=embeds[None], use_cache=False)
        for hook in hooks:
            hook.remove()
        return hidden, out.logits[0]

    def greedy(self, ids: list, count: int, stops, penalty: float = 1.0) -> dict:
        known, out, logprobs, margin = list(ids), [], [], math.inf
        while len(out) < count:
            logits = self.run(known)[1][-1].float()
            if penalty != 1.0:
                seen = torch.tensor(sorted(set(known)))
                logits[seen] = torch.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
            top = logits.topk(2)
            margin = min(margin, float((top.values[0] - top.values[1]) / logits.std()))
            token = int(top.indices[0])
            out.append(token)
            logprobs.append(float(F.log_softmax(logits, -1)[token]))
            known.append(token)
            if token in stops:
                break
        return {"ids": out, "logprobs": logprobs, "margin": margin, "finish": "stop" if out[-1] in stops else "length"}


def write_prompt(folder: Path, prompt: dict, rendered: str, ids: list, pixels, grids: list, kinds: list, runner: Runner, half: Runner, stops,
                 decode, answer_ids: list, tail_ids, end: int | None = None) -> float:
    """golden.json and the stages of one prompt. tail_ids(text): what follows the token that closes an answer in a second turn."""
    end = min(stops) if end is None else end
    norms = {}
    if grids:
        norms["pixel_values"] = save_stage(folder, "pixel_values", pixels)
        norms["vision"] = save_stage(folder, "vision", runner.visual)
    hidden, logits = runner.run(ids)
    for i, tensor in enumerate(hidden):
        norms[f"hidden_{i:02d}"] = save_stage(folder, f"hidden_{i:02d}", tensor)
    save_npy(folder / "position_ids.npy", torch.arange(len(ids)).int().numpy())
    save_npy(folder / "logits.npy", logits[-1].numpy())
    scored = runner.run(ids + answer_ids)[1][len(ids) - 1:-1]
    kl = ref.divergence(logits, half.run(ids)[1])
    spread = sorted({round(i * (len(ids) - 1) / (LOGIT_ROWS - 1)) for i in range(LOGIT_ROWS)})
    save_npy(folder / "logits_rows.npy", logits[spread].numpy())
    out = runner.greedy(ids, FIRST, stops)
    penalised = runner.greedy(ids, SECOND, stops, 1.05)
    golden = {
        "rendered": rendered, "input_ids": ids, "grid": grids, "media_kinds": kinds, "rope_delta": 0, "norms": norms,
        "generated": {"answer": decode(out["ids"]), **out},
        "generated_penalty_1.05": {"ids": penalised["ids"], "margin": penalised["margin"]},
        "score": {"answer": prompt["answer"], "ids": answer_ids, "logprobs": ref.token_logprobs(scored, answer_ids),
                  "top1": scored.argmax(-1).tolist()},
        "bf16": {"kl_mean": float(kl.mean()), "kl_max": float(kl.max()), "kl_last": float(kl[-1]),
                 "rows": spread, "kl_rows": [float(kl[i]) for i in spread]}}
    margin = min(out["margin"], penalised["margin"])
    if prompt["then"] is not None:
        tail = ([] if out["ids"][-1] == end else [end]) + tail_ids(prompt["then"])
        second = runner.greedy(ids + out["ids"] + tail, SECOND, stops)
        golden["second_turn"] = {"text": prompt["then"], "appended_ids": tail, "answer": decode(second["ids"]), **second}
        margin = min(margin, second["margin"])
    write_json(folder / "golden.json", golden)
    print(f"  {prompt['name']}: {len(ids)} tokens, margin {margin:.4f}, distinct {len(set(out['ids']))}, {out['finish']}, bf16 KL {kl.mean():.2e}",
          flush=True)
    return margin
