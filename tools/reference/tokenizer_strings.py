"""Awkward strings for the tokenizer, and template renderings: text -> ids and ids -> text by transformers' fast tokenizer.

Code points younger than Unicode 14 go to a group of their own ("recent"): libraries disagree about them for years, and an
engine's Unicode tables may rightly be older than the reference's.
"""
import json
import sys
import unicodedata

import tokenizer_files
from layout import HERE, OUT
from make_vision_math import Draw

SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x20\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
NOT_SPACES = "\u180e\u200b\u200c\u200d\u2060\ufeff\x00\x08\x1b\x7f\x80\x9f\xad"
SCRIPTS = ["Hello, world", "naïve café", "Größe", "Привет, мир", "Ελληνικά κείμενα", "Հայերեն", "עִבְרִית שלום", "العَرَبِيَّة ١٢٣", "فارسی ۴۵۶", "हिन्दी क्षत्रिय १२३",
           "বাংলা ৭৮৯", "தமிழ் ௧௨௩", "తెలుగు", "ಕನ್ನಡ", "മലയാളം", "ไทย ๑๒๓ ภาษาไทย", "ລາວ", "မြန်မာ", "ខ្មែរ", "ქართული", "አማርኛ", "ᏣᎳᎩ", "ᠮᠣᠩᠭᠣᠯ", "བོད་ཡིག",
           "한국어 텍스트", "ᄒ\u1161ᆫᄀ\u1173ᆯ", "日本語テキスト ひらがな", "ｶﾀｶﾅ ﾊﾝｶｸ", "中文，文本。", "𠀀𠀁𪜶", "𝐁𝐨𝐥𝐝 𝒮𝒸𝓇𝒾𝓅𝓉 𝟙𝟚𝟛", "𓀀𓂀", "𐤀𐤁", "Ａｂｃ１２３", "İIıi ŞşĞğ", "ŒœÆæßẞ"]
NORMAL = ["e\u0301", "e\u0301\u0302", "a\u0323\u0307", "a\u0307\u0323", "\u1e69", "s\u0323\u0307", "s\u0307\u0323", "\u212b", "\u2126", "\u212a", "\u0344", "\u0958", "\u0915\u093c", "\u09cb",
          "\u09c7\u09be", "\u1100\u1161", "\u1100\u1161\u11a8", "\uac00\u11a8", "\uac01", "\u0dd9\u0dcf\u0dca", "\u2adc", "\ufb1d", "\ufb01", "\uf900", "\U0002f800", "\u0340\u0341\u0343\u0374\u037e\u0387",
          "o\u0302\u0301", "o\u0301\u0302", "u\u0308\u0304", "\u0928\u093c", "\u0b47\u0b56", "\u3131", "\u304b\u3099", "\u30cf\u309a", "\U0001d15e", "\U0001d157\U0001d165", "\u0061\u0315\u0300\u05ae\u0062",
          "\u0bc6\u0bbe", "\u1b06\u1b35", "\U00011099\U000110ba", "q\u0307\u0323x", "\u0301a", " \u0301", "\n\u0301", "1\u0301", "'\u0301s", "\u00c5\u0323", "\u0041\u030a\u0323", "\u0f71\u0f72\u0f74", "\u00bd\u00b2\u2460"]
NUMBERS = ["0123456789", "3.14159", "1,234,567.89", "١٢٣٤٥", "४५६", "๔๕๖", "²³¹ ½¼¾", "Ⅷ ⅷ ↀ", "①②③ ⑴⑵ ⒈", "〇一二三", "㊀㈠ ㉑", "𝟘𝟙𝟚 𝟬𝟭", "１２３", "0x1F 1e-9", "12:34:56", "v1.2.3-rc4", "𐄇𐄈 𐅀", "৴৵৶", "༪༫", "፩፪፻", "5½ 2⁵ x₁₂"]
EMOJI = ["😀", "👩‍👩‍👧‍👦", "👍🏽👍🏿", "🇩🇪🇯🇵🇧", "❤️‍🔥", "1️⃣ #️⃣ *️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "☺︎☺️", "🧑🏾‍🚀", "‼️⁉️", "♀︎♂️", "a😀b 😀 c"]
CONTRACTIONS = ["'s", "'S", "'\u017f", "'t", "'T", "'re", "'RE", "'rE", "'Re", "'ve", "'VE", "'vE", "'m", "'M", "'ll", "'LL", "'lL", "'d", "'D", "\u2019s", "''s", "'st", "'sx", "'lx", "'l", "'r", "'v", "'", "'1", "' s", "'\u0131", "'\u212a"]
PUNCTUATION = ["!!!", "?!", "...", "…", "—–-", "“x”", "(a)[b]{c}", "a.b.c", "a,b;c", "$1.00 €2 £3", "#tag @user", "100%", "a+b=c", "<b>x</b>", "\\n\\t", "/* c */", "// x\n", "``` \n```", "!\n\n", " !\r\n\r\nx", " ?\n ?", "._.", "¿¡", "«»", "、。", "·•‣", "\u0300\u0301", "\u00a8", "^`´", "|_|"]
RUNS = ["a" * 700, " " * 300, "\n" * 300, "\r\n" * 120, "ab" * 250, "é" * 200, "e\u0301" * 150, "你" * 200, "9" * 150, "!" * 300, " a" * 200, "😀" * 60, "\u0301" * 80, "a " * 150, "\t" * 90, "\u3000" * 60, "'s" * 80, "x" * 33 + " " * 33 + "\n" * 33]


def special_strings() -> list[str]:
    texts = [t for t, _ in tokenizer_files.SPECIAL]
    result = [t for t in texts]
    for t in texts:
        result += [f"a{t}b", f" {t} ", f"\n{t}\n", t + t, t[:-1], t[1:], t.upper(), t.replace("|", "||"), f"x{t[:-2]}{t}"]
    result += ["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_start|><|im_end|", "<tool_call>{\"a\": 1}</tool_call>", "</tool_call", "<|image_pad|>" * 12, "<|vision_start|><|video_pad|><|vision_end|>",
               "<|im_start|> \n <|im_end|>", "e\u0301<|im_end|>\u0301", "<|im_\u0065nd|>", "<|im_end\uff5c>", "a  <|im_end|>  b", "\r\n<|endoftext|>\r\n", "1<|file_sep|>2", "'<|im_end|>s", "<tool_call><tool_call></tool_call>", "<<|im_start|>>", "<|<|im_start|>|>"]
    return result


def spaces() -> list[str]:
    result = [""]
    for c in SPACES + NOT_SPACES:
        result += [c, f"a{c}b", f"a {c}b", f"a{c} b", f"a{c}", f"{c}{c}a", f"1{c}2", f"!{c}?", f"{c}\n{c}", f"a{c}\n\n{c} b"]
    return result


def codepoint(draw: Draw, recent: bool) -> str:
    """One assigned code point of any plane; `recent`: one that Unicode 14 (Python 3.11) does not know."""
    while True:
        top = draw.pick([0x17f, 0x3000, 0xffff, 0xffff, 0x1ffff, 0x1ffff, 0x323ff, 0x10ffff])
        value = draw(0, top)
        if 0xd800 <= value <= 0xdfff:
            continue
        unknown = unicodedata.category(chr(value)) == "Cn" and value & 0xfffe != 0xfffe and not 0xfdd0 <= value <= 0xfdef
        if unknown == recent:
            return chr(value)


def random_strings(count: int, recent: bool) -> list[str]:
    """Code points of all planes mixed with spaces, letters, digits, punctuation and line ends."""
    draw, result = Draw("strings" + str(recent)), []
    plain = list(" \n\r\ta1!'.é") + [" ", " ", "  ", "\r\n", "'s", "ab", "the", "\u0301", "\u4f60", "가", "😀", "٣"]
    for _ in range(count):
        parts = [codepoint(draw, recent) if draw(0, 2) == 0 else draw.pick(plain) for _ in range(draw(1, 14))]
        result.append("".join(parts))
    return result


def combined(groups: list[list[str]], count: int) -> list[str]:
    draw = Draw("combined")
    pool = [text for group in groups for text in group]
    glue = ["", "", " ", "  ", "\n", "\r\n", "\t", "\n\n ", ", ", "'s ", "1", "\u00a0", "\u3000"]
    return ["".join(draw.pick(pool) + draw.pick(glue) for _ in range(draw(2, 4))) for _ in range(count)]


def every_codepoint_class() -> list[str]:
    """Samples of every general category, in the places where the pre-tokeniser's classes decide."""
    found: dict[str, list[str]] = {}
    for value in range(sys.maxunicode + 1):
        kind = unicodedata.category(chr(value))
        if kind not in ("Cs", "Cn") and len(found.setdefault(kind, [])) < 400:
            found[kind].append(chr(value))
    result = []
    for kind, chars in sorted(found.items()):
        for c in chars[:: max(1, len(chars) // 6)][:6]:
            result += [f"a{c}b {c}c", f"1{c}2 {c}\n"]
    return result


def groups() -> dict[str, list[str]]:
    corpus = (HERE / "corpus.txt").read_text(encoding="utf-8").split("\n")
    contractions = [p + c + s for c in CONTRACTIONS for p, s in (("it", " x"), (" ", "a"), ("", ""), ("1", "\n"))]
    names = [SCRIPTS, NORMAL, NUMBERS, EMOJI, CONTRACTIONS, PUNCTUATION]
    wrapped = [w.format(t) for group in names for t in group for w in ("{}", " {}", "a{}b", "{}\n\n")]
    return {"text": corpus[:24], "wrapped": wrapped, "contractions": contractions, "spaces": spaces(), "special": special_strings(), "categories": every_codepoint_class(),
            "combined": combined(names + [list(SPACES)], 700), "random": random_strings(1500, False), "runs": RUNS, "recent": random_strings(60, True)}


def decodings(tokenizer, rows: list, count: int = 160) -> list:
    """[ids, text with special tokens, text without them]: some encodings, and random ids, whose bytes are seldom UTF-8."""
    draw, result = Draw("decode"), []
    for i in range(count):
        ids = draw.pick(rows)[1][:40] if i % 4 == 0 else [draw(0, len(tokenizer) - 1 if i % 4 > 1 else 255) for _ in range(draw(1, 18))]
        result.append([ids, tokenizer.decode(ids, skip_special_tokens=False), tokenizer.decode(ids, skip_special_tokens=True)])
    return result


CHATS = [
    ("text", [{"role": "user", "content": "Hello"}], {}),
    ("text parts", [{"role": "user", "content": [{"type": "text", "text": "Hello "}, {"type": "text", "text": " there\n"}]}], {}),
    ("system", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}], {}),
    ("system parts", [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, {"role": "user", "content": "Hello"}], {}),
    ("empty system", [{"role": "system", "content": ""}, {"role": "user", "content": "Hello"}], {}),
    ("image", [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe."}]}], {}),
    ("image url", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "Describe."}]}], {}),
    ("image after text", [{"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": " what?"}]}], {}),
    ("two images", [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Compare."}]}], {}),
    ("video", [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Describe."}]}], {}),
    ("video and image", [{"role": "user", "content": [{"type": "video"}, {"type": "image"}, {"type": "text", "text": "Both?"}]}], {}),
    ("vision ids", [{"role": "user", "content": [{"type": "image"}, {"type": "video"}, {"type": "image"}, {"type": "text", "text": "Both?"}]}], {"add_vision_id": True}),
    ("turns", [{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}, {"role": "user", "content": "Three"}], {}),
    ("turns with image", [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "One"}]}, {"role": "assistant", "content": "Two"}, {"role": "user", "content": "Three"}], {}),
    ("no generation prompt", [{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}], {"add_generation_prompt": False}),
    ("special text in content", [{"role": "user", "content": "<|im_end|> {{ x }} {% y %}"}], {}),
    ("late system", [{"role": "user", "content": "One"}, {"role": "system", "content": "Two"}], {}),
]


def dump(path, head: dict, lists: dict) -> None:
    """JSON with one row per line: diffs stay readable."""
    out = ["{", *(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}," for k, v in head.items())]
    for n, (name, rows) in enumerate(lists.items()):
        body = ",\n".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in rows)
        out.append(f"{json.dumps(name)}: [\n{body}\n]" + ("," if n + 1 < len(lists) else ""))
    path.write_text("\n".join(out + ["}"]) + "\n", encoding="utf-8", newline="\n")


def main() -> None:
    tokenizer = tokenizer_files.load(OUT / "tokenizer")
    files = tokenizer_files.load(OUT / "tokenizer_files")
    small = tokenizer_files.load(OUT / "tokenizer_pairs")
    lists, checked = {}, []
    for name, texts in groups().items():
        rows = [[t, tokenizer(t)["input_ids"]] for t in dict.fromkeys(texts)]
        assert all(files(t)["input_ids"] == ids for t, ids in rows), "vocab.json + merges.txt gives other ids"
        checked += rows
        lists[name] = rows
    small_rows = [[t, small(t)["input_ids"]] for t, _ in checked[::37] if len(t) < 60]
    decoded = decodings(tokenizer, checked)
    assert all(files.decode(i, skip_special_tokens=False) == a and files.decode(i, skip_special_tokens=True) == b for i, a, b in decoded)
    head = {"about": "every group: [text, ids] with ../tokenizer (and ../tokenizer_files); pairs: [text, ids] with ../tokenizer_pairs; decode: [ids, text, text without special tokens]; "
                     "group recent holds code points newer than Unicode 14, reference tables: Unicode 16"}
    dump(OUT / "tokenizer" / "strings.json", head, {**lists, "pairs": small_rows, "decode": decoded})
    chats = []
    for name, messages, options in CHATS:
        options = {"add_generation_prompt": True, **options}
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        chats.append({"name": name, "options": options, "messages": messages, "text": text, "ids": tokenizer(text)["input_ids"]})
    dump(OUT / "tokenizer" / "chats.json", {"about": "rendered chat template and its ids with ../tokenizer; media not expanded"}, {"chats": chats})
    print("strings", {k: len(v) for k, v in lists.items()}, "pairs", len(small_rows), "decode", len(decoded))


if __name__ == "__main__":
    main()
