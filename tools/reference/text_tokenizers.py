"""Tiny tokenizers with the parts that text models use, and what the tokenizers and sentencepiece libraries make of awkward texts.

text_tokenizers/KIND/ holds tokenizer.json, or tokenizer.model for SentencePiece's own; ids.json the ids of each of text_tokenizers/texts.json,
and some decodings. All vocabularies come from corpus.txt; none is published.
"""
import io
import json
import struct

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.convert_slow_tokenizer import generate_merges

import tokenizer_strings as strings
from layout import HERE, OUT
from make_vision_math import Draw

DIR = OUT / "text_tokenizers"
SPACE = "\u2581"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
MISSING = [4, 6, 19, 20, 22, 29, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100)]  # the bytes without a token, as published ones have them
MISSING += [0x25, 0xA4]                                                        # and two that texts have: "%" and part of an umlaut
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def corpus() -> list[str]:
    return (HERE / "corpus.txt").read_text(encoding="utf-8").split("\n")


# Byte-level ones.

def byte_level(pre, size: int, drop=(), ignore_merges: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=1, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    names = byte_names()
    gone = {names[b] for b in drop}
    vocab = {t: i for i, t in enumerate(t for t in model["vocab"] if not gone & set(t))}
    merges = [tuple(m) for m in model["merges"] if "".join(m) in vocab]
    if ignore_merges:  # tokens that only looking whole pieces up can find
        merges = [m for m in merges if vocab["".join(m)] % 7]
    result = Tokenizer(models.BPE(vocab, merges, ignore_merges=ignore_merges))
    result.pre_tokenizer = pre
    result.decoder = decoders.ByteLevel()
    return result


def byte_names() -> dict[int, str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    names, more = {b: chr(b) for b in printable}, 0x100
    for b in range(256):
        if b not in names:
            names[b], more = chr(more), more + 1
    return names


def smollm2() -> Tokenizer:
    tokenizer = byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]), 420, MISSING)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    return tokenizer


def llama3() -> Tokenizer:
    split = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated")
    tokenizer = byte_level(pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), 460, (), True)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<|begin_of_text|>", "<|eot_id|>", "<|im_end|>")])
    begin = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B", special_tokens=[("<|begin_of_text|>", begin)])])
    return tokenizer


def gpt2() -> Tokenizer:
    tokenizer = byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=False)]), 400)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False, lstrip=True)])
    return tokenizer


# Those over characters.

def train_pieces(size: int, user=(), byte_fallback: bool = True, split: bool = True) -> list[tuple[str, float, int]]:
    """[piece, score, type] of SentencePiece's BPE; every eleventh longer piece is marked unused."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(t for t in corpus() if t and max(map(ord, t)) < 0x250), model_writer=model, model_type="bpe", vocab_size=size, byte_fallback=byte_fallback, user_defined_symbols=list(user),
        normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.98, hard_vocab_limit=False, split_by_whitespace=split,
        num_threads=1, minloglevel=2)
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = []
    for i in range(sp.get_piece_size()):
        kind = (UNKNOWN if sp.is_unknown(i) else CONTROL if sp.is_control(i) else BYTE if sp.is_byte(i) else USER if sp.id_to_piece(i) in user else NORMAL)
        pieces.append((sp.id_to_piece(i), sp.get_score(i), kind))
    return pieces


def character_model(pieces: list, byte_fallback: bool, fuse: bool) -> Tokenizer:
    """As transformers converts SentencePiece's BPE."""
    vocab = {piece: i for i, (piece, _, _) in enumerate(pieces)}
    merges = generate_merges(vocab, {piece: score for piece, score, kind in pieces if kind in (NORMAL, USER)})
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=fuse, byte_fallback=byte_fallback))
    tokenizer.add_special_tokens([AddedToken(p, normalized=False) for p, _, kind in pieces if kind in (UNKNOWN, CONTROL)])
    return tokenizer


def text_of(strip: bool) -> decoders.Sequence:
    return decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *([decoders.Strip(" ", 1, 0)] if strip else [])])


def gemma() -> Tokenizer:
    pieces = train_pieces(560, ["<t>", SPACE * 2, SPACE * 3])
    tokenizer = character_model(pieces, True, True)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    tokenizer.decoder = text_of(False)
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ("<t>", SPACE * 2, SPACE * 3)])
    return tokenizer


def llama2() -> Tokenizer:
    tokenizer = character_model(train_pieces(540), True, True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = text_of(True)
    tokenizer.add_tokens([AddedToken("<t>", normalized=True)])
    return tokenizer


def metaspace_first() -> Tokenizer:
    tokenizer = character_model(train_pieces(520), True, False)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "first", split=False)
    tokenizer.decoder = text_of(True)
    return tokenizer


def metaspace_always() -> Tokenizer:
    """Without bytes: what is no token is <unk>, one for each character."""
    pieces = train_pieces(300, byte_fallback=False)
    tokenizer = character_model(pieces, False, False)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "always", split=True)
    tokenizer.decoder = text_of(True)
    return tokenizer


# SentencePiece's own.

def proto(number: int, value) -> bytes:
    """One field of a protocol buffer."""
    def integer(n: int) -> bytes:
        return bytes([n & 127 | 128]) + integer(n >> 7) if n > 127 else bytes([n])
    if isinstance(value, float):
        return integer(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return integer(number << 3) + integer(value)
    value = value.encode() if isinstance(value, str) else value
    return integer(number << 3 | 2) + integer(len(value)) + value


def model_bytes(pieces: list, prefix: bool, byte_fallback: bool) -> bytes:
    rows = b"".join(proto(1, proto(1, piece) + proto(2, float(score)) + proto(3, kind)) for piece, score, kind in pieces)
    trainer = proto(3, 2) + proto(35, int(byte_fallback)) + proto(40, 0) + proto(41, 1) + proto(42, 2)
    normalizer = proto(1, "identity") + proto(3, int(prefix)) + proto(4, 0) + proto(5, 1)
    return rows + proto(2, trainer) + proto(3, normalizer)


def pieces_prefix() -> tuple[list, bool, bool]:
    """A space before each text, no bytes; some pieces are unused, and fall apart."""
    pieces = train_pieces(340, byte_fallback=False)
    return [(p, s, UNUSED if k == NORMAL and len(p) > 1 and i % 5 == 0 else k) for i, (p, s, k) in enumerate(pieces)], True, False


def pieces_bytes() -> tuple[list, bool, bool]:
    """Bytes, no space before the text, user-defined pieces (also of spaces), merges across words."""
    return train_pieces(620, ["<t>", SPACE * 2, SPACE * 3, "\n\n", "the"], split=False), False, True


def texts() -> list[str]:
    draw, groups = Draw("text tokenizers"), strings.groups()
    result = corpus()[:12]
    for name, count in (("wrapped", 60), ("contractions", 20), ("spaces", 45), ("categories", 20), ("combined", 25), ("random", 40)):
        result += [t for t in (draw.pick(groups[name]) for _ in range(count)) if len(t) < 80]
    result += ["a" * 70, " " * 40, "12345678 9 ½ Ⅷ 12", "ab1234cd 1", "100%", "Größe %", "\x04\x06\x13", "a\x04b", "", " ", "  ", "   a", "a  b   c    ", "\n\n", "a\n\n\nb", "\r\n\r\n", "\t\t",
               SPACE, f"a{SPACE}b", f"{SPACE}{SPACE} x", f" {SPACE}a", "<0x41>", "a<0x41>b", "🤗🤗", "a🤗b", "\u0000", "\ufeffx", "thethe the", "日本語", "ŒŒ", "x'S y's", "  <|endoftext|>  x"]
    tokens = ["<s>", "</s>", "<unk>", "<t>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>"]
    for token in tokens:
        result += [token, f"a {token} b", f"{token}{token}", f" {token}  x", token[:-1]]
    return list(dict.fromkeys(result))


def decodings(tokenizer: Tokenizer, rows: list, draw: Draw, size: int) -> list:
    """[ids, text, text without special tokens]: encodings, and random ids."""
    low = [i for i in range(size) if (tokenizer.id_to_token(i) or "").startswith("<0x")] or list(range(size))
    result = []
    for i in range(60):
        ids = draw.pick(rows)[:20] if i % 4 == 0 else [draw.pick(low) if draw(0, 2) else draw(0, size - 1) for _ in range(draw(1, 9))]
        result.append([ids, tokenizer.decode(ids, skip_special_tokens=False), tokenizer.decode(ids, skip_special_tokens=True)])
    return result


def main() -> None:
    items = texts()
    strings.dump(DIR / "texts.json", {"about": "the texts whose ids are in */ids.json"}, {"texts": items})
    for make in (smollm2, llama3, gpt2, gemma, llama2, metaspace_first, metaspace_always, pieces_prefix, pieces_bytes):
        name, made, where = make.__name__, make(), DIR / make.__name__
        where.mkdir(parents=True, exist_ok=True)
        head = {}
        if isinstance(made, Tokenizer):
            (where / "tokenizer.json").write_text(json.dumps(json.loads(made.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
            rows = [made.encode(t, add_special_tokens=False).ids for t in items]
            assert made.encode("a").ids == [*(around := made.encode("").ids), *made.encode("a", add_special_tokens=False).ids]
            head["before"], decoder, size = around, made, made.get_vocab_size()
        else:
            pieces, prefix, fallback = made
            model = model_bytes(*made)
            (where / "tokenizer.model").write_bytes(model)
            sp = sentencepiece.SentencePieceProcessor(model_proto=model)
            # The library takes <s> in a text as characters; a chat template writes the token. Those texts are left out.
            marks = [p for p, _, kind in pieces if kind in (UNKNOWN, CONTROL)]
            rows = [None if any(m in t for m in marks) else sp.encode(t) for t in items]
            decoder, size = character_model(pieces, fallback, True), len(pieces)
            decoder.decoder = text_of(prefix)
        given = [r for r in rows if r]
        strings.dump(where / "ids.json", head, {"ids": rows, "decode": decodings(decoder, given, Draw("decode " + name), size)})
        print(name, size, "tokens", len(given), "texts")


if __name__ == "__main__":
    main()
