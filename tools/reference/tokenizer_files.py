"""Tiny tokenizers with exactly the parts of Qwen2-VL's: NFC, the Split regex, byte-level BPE, the special tokens.

Three directories come out, all from one training run on corpus.txt:
    tokenizer/        700 base tokens, merges as "a b" strings (the form of the published files)
    tokenizer_files/  the same ids, but only vocab.json + merges.txt + tokenizer_config.json, no tokenizer.json
    tokenizer_pairs/  620 base tokens, merges as ["a", "b"] pairs (tokenizers >= 0.20), special tokens in another order,
                      so that nothing may assume the published distances between special ids
"""
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from layout import HERE, OUT, write_json

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")

# Published order of ids 151643 ..; the second field is the `special` flag.
SPECIAL = [("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True), ("<|object_ref_start|>", True),
           ("<|object_ref_end|>", True), ("<|box_start|>", True), ("<|box_end|>", True), ("<|quad_start|>", True),
           ("<|quad_end|>", True), ("<|vision_start|>", True), ("<|vision_end|>", True), ("<|vision_pad|>", True),
           ("<|image_pad|>", True), ("<|video_pad|>", True), ("<tool_call>", False), ("</tool_call>", False),
           ("<|fim_prefix|>", False), ("<|fim_middle|>", False), ("<|fim_suffix|>", False), ("<|fim_pad|>", False),
           ("<|repo_name|>", False), ("<|file_sep|>", False)]

CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def train(base_tokens: int) -> tuple[dict, list]:
    """(vocab, merges as pairs) of a byte-level BPE on the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=base_tokens, min_frequency=1, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([(HERE / "corpus.txt").read_text(encoding="utf-8")], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    assert len(model["vocab"]) == base_tokens, len(model["vocab"])
    return model["vocab"], model["merges"]


def truncate(vocab: dict, merges: list, base_tokens: int) -> tuple[dict, list]:
    """The tokenizer that a shorter training run would have given: the first merges only."""
    kept = {t: i for t, i in vocab.items() if i < base_tokens}
    return kept, [m for m in merges if vocab["".join(m)] < base_tokens]


def tokenizer_json(vocab: dict, merges: list, special: list, pair_merges: bool) -> dict:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    added = [{"id": len(vocab) + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": flag} for i, (text, flag) in enumerate(special)]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}, byte_level]},
        "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": merges if pair_merges else [" ".join(m) for m in merges]}}


def tokenizer_config(vocab: dict, special: list) -> dict:
    decoder = {str(len(vocab) + i): {"content": text, "lstrip": False, "normalized": False, "rstrip": False,
                                     "single_word": False, "special": flag} for i, (text, flag) in enumerate(special)}
    return {"add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": decoder,
            "additional_special_tokens": [text for text, flag in special if flag and text != "<|endoftext|>"],
            "bos_token": None, "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 131072, "pad_token": "<|endoftext|>",
            "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None}


def special_ids(name: str) -> dict[str, int]:
    """Text -> id of the added tokens of one of the directories."""
    config = json.loads((OUT / name / "tokenizer_config.json").read_text(encoding="utf-8"))
    return {v["content"]: int(k) for k, v in config["added_tokens_decoder"].items()}


def write_all() -> None:
    vocab, merges = train(700)
    small_vocab, small_merges = truncate(vocab, merges, 620)
    rotated = SPECIAL[5:14] + SPECIAL[:5] + SPECIAL[14:]
    merges_text = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges)

    write_json(OUT / "tokenizer/tokenizer.json", tokenizer_json(vocab, merges, SPECIAL, False), compact=True)
    write_json(OUT / "tokenizer/tokenizer_config.json", tokenizer_config(vocab, SPECIAL))
    write_json(OUT / "tokenizer/chat_template.json", {"chat_template": CHAT_TEMPLATE})
    write_json(OUT / "tokenizer_files/vocab.json", vocab, compact=True)
    (OUT / "tokenizer_files/merges.txt").write_text(merges_text, encoding="utf-8")
    write_json(OUT / "tokenizer_files/tokenizer_config.json", tokenizer_config(vocab, SPECIAL))
    write_json(OUT / "tokenizer_pairs/tokenizer.json", tokenizer_json(small_vocab, small_merges, rotated, True), compact=True)
    write_json(OUT / "tokenizer_pairs/tokenizer_config.json", tokenizer_config(small_vocab, rotated))
    write_json(OUT / "tokenizer_pairs/chat_template.json", {"chat_template": CHAT_TEMPLATE})


def load(path: Path):
    from transformers import Qwen2TokenizerFast
    return Qwen2TokenizerFast.from_pretrained(str(path))


if __name__ == "__main__":
    write_all()
