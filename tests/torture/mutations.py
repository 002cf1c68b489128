"""Ways to spoil a file: any bytes, JSON, safetensors and .pkv.

The last three go on where random bytes do not get: behind the parser, behind the length fields, behind the checksums.
"""
import copy
import json
import re
import struct

MASK = (1 << 64) - 1
# Numbers at the edges of what a field, a product of two or a signed type can hold.
HUGE = [-1, 0, 1, 2, 3, 7, 127, 255, 256, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1]
NUMBERS = HUGE + [2**63, 2**64 - 1, 2**64, 10**30, -2**31, -2**63, -2**64, 0.5, -0.5, 1e308, -1e308, 1e-308, 5e-324]


# ---- Bytes

def spoil_bytes(rng, data):
    """One random injury. Returns the new bytes and what was done."""
    data = bytearray(data)
    if not data:  # spoiled twice
        return rng.randbytes(9), "9 bytes"
    kind = rng.choice(["flip", "flip", "truncate", "zero", "swap", "insert", "length", "append", "repeat", "empty"])
    at = rng.randrange(len(data))
    if rng.random() < 0.4:  # what counts is often in front
        at = min(at, rng.randrange(64))
    span = min(int(2 ** rng.uniform(0, 14)), len(data) - at)
    if kind == "flip":
        for _ in range(rng.choice([1, 1, 2, 8, 64])):
            at = rng.randrange(len(data)) if rng.random() < 0.7 else at
            data[at] ^= 1 << rng.randrange(8)
    elif kind == "truncate":
        del data[at:]
    elif kind == "zero":
        data[at:at + span] = bytes(span)
    elif kind == "swap":
        other = rng.randrange(len(data))
        a, b = sorted((at, other))
        span = min(span, b - a, len(data) - b)
        data[a:a + span], data[b:b + span] = data[b:b + span], data[a:a + span]
    elif kind == "insert":
        data[at:at] = rng.randbytes(rng.choice([1, 2, 4, 17, 4096]))
    elif kind == "length":
        size = rng.choice([1, 2, 4, 8])
        value = rng.choice(HUGE) & (1 << 8 * size) - 1
        data[at:at + size] = value.to_bytes(size, rng.choice(["little", "big"]))
    elif kind == "append":
        data += rng.choice([bytes, rng.randbytes])(rng.choice([1, 8, 4096, 100_000]))
    elif kind == "repeat":
        data[at:at] = data[at:at + span] * rng.choice([1, 2, 10])
    else:
        data.clear()
    return bytes(data), f"{kind} at {at}, {len(data)} bytes"


# ---- JSON

def raw(text):
    """A number that json.dumps would not write: this very text."""
    return f"@raw {text}@"


def replacement(rng, value):
    """Another value for one place: of another type, or of its own and strange."""
    if isinstance(value, bool) or rng.random() < 0.35:
        return rng.choice([None, True, False, 0, -1, 1.5, "", "text", [], {}, [[]], [None], {"a": None}, "\u0000", [0] * 3])
    if isinstance(value, (int, float)):
        close = rng.choice([value + 1, value - 1, -value, value * 2, value // 2, value * 1000])
        written = raw(rng.choice(["1e400", "-1e400", "1E99999", "0.1e-99999", "-0", "9" * 400]))
        return rng.choice([close, close, rng.choice(NUMBERS), written])
    if isinstance(value, str):
        return rng.choice([value + "x", value[:-1], value.upper(), value * 50, "", "../" * 8 + value, "\ud800", "\udcff",
                           "\u202e" + value, "a\nb\x1b[31m", value + "\u0000", "\U0010ffff", "x" * 100_000, "{{ " + value,
                           "%s%n", value.replace("a", "\u00e4")])
    if isinstance(value, list):
        longer = value * 1000 if len(value) < 100 else value[:1]
        return rng.choice([[], value * 2, longer, value[:-1], value[::-1], [value], dict.fromkeys("abc", value)])
    if isinstance(value, dict):
        return rng.choice([{}, list(value.items()), [value], {key.upper(): one for key, one in value.items()}])
    return rng.choice([0, "", [], {}])


def places(value, path=()):
    """The path of everything inside, lists sampled where they are long."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], path + (key,))
    elif isinstance(value, list):
        step = max(1, len(value) // 20)
        for i in range(0, len(value), step):
            yield from places(value[i], path + (i,))


def nested(rng):
    depth = rng.choice([50, 1000, 100_000, 1_000_000])
    opening = rng.choice(["[", '{"a":'])
    return opening * depth + rng.choice(["", "1", "1" + ("]" if opening == "[" else "}") * depth])


def spoil_json(rng, root):
    """A JSON text with something about it changed. Returns bytes and what was done."""
    root = copy.deepcopy(root)
    kind = rng.choice(["value"] * 8 + ["missing"] * 3 + ["extra", "twice", "nested", "syntax", "unicode"])
    # Top-level places as often as all the others: in a tokenizer they would never be met.
    paths = list(places(root))
    shallow = [path for path in paths if len(path) <= 2]
    path = rng.choice(shallow if rng.random() < 0.5 else paths)
    for _ in range(20):
        if path or kind not in ("missing", "twice", "nested"):
            break
        path = rng.choice(paths)
    parent = root
    for step in path[:-1]:
        parent = parent[step]
    where = ".".join(map(str, path)) or "root"
    marker = "@place@"
    if kind == "value":
        value = parent[path[-1]] if path else root
        new = replacement(rng, value)
        if path:
            parent[path[-1]] = new
        else:
            root = new
        return dump(root), f"{where} becomes {repr(new)[:80]}"
    if kind == "missing" and path:
        del parent[path[-1]]
        return dump(root), f"{where} is missing"
    if kind == "extra":
        target = root if isinstance(root, dict) else {}
        target[rng.choice(["", "x", "\u0000", "__proto__", "x" * 10_000])] = replacement(rng, 1)
        return dump(target), "one key more"
    if kind == "twice" and path and isinstance(parent, dict):
        key = path[-1]
        parent[key] = marker
        text = dump(root)
        second = json.dumps(key).encode() + b":" + dump(replacement(rng, 1))
        return text.replace(json.dumps(marker).encode(), b"1," + second, 1), f"{where} twice"
    if kind == "nested" and path:
        parent[path[-1]] = marker
        return dump(root).replace(json.dumps(marker).encode(), nested(rng).encode(), 1), f"{where} is nested deeply"
    if kind == "unicode":
        text = bytearray(dump(root))
        at = rng.randrange(len(text))
        text[at:at] = rng.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xef\xbb\xbf",
                                  b"\\ud800", b"\\u0000", b"\x00"])
        return bytes(text), f"odd bytes at {at}"
    text, what = spoil_bytes(rng, dump(root))
    return text, "JSON text: " + what


def dump(value):
    """JSON in ASCII: a lone surrogate becomes an escape that no reader has to take."""
    return re.sub(rb'"@raw ([^@"]*)@"', rb"\1", json.dumps(value).encode("ascii"))


# ---- safetensors: eight bytes of length, a JSON header, the data

def spoil_safetensors(rng, data):
    size = struct.unpack("<Q", data[:8])[0]
    header, rest = data[8:8 + size], data[8 + size:]
    kind = rng.choice(["header", "header", "header", "length", "data", "bytes"])
    if kind == "header":
        text, what = spoil_json(rng, json.loads(header))
        return struct.pack("<Q", len(text)) + text + rest, "header: " + what
    if kind == "length":
        value = rng.choice(HUGE + [size + 1, size - 1, len(data) - 8, len(data)]) & MASK
        return struct.pack("<Q", value) + data[8:], f"header length {value}"
    if kind == "data":
        cut = rng.randrange(len(rest))
        return data[:8 + size] + rest[:cut], f"data cut at {cut}"
    return spoil_bytes(rng, data)


# ---- .pkv (docs/pkv.md): a header of 4096 bytes, five sections with XXH64 checksums

PRIMES = (11400714785074694791, 14029467366897019727, 1609587929392839161, 9650029242287828579, 2870177450012600261)


def rotate(value, count):
    return (value << count | value >> 64 - count) & MASK


def xxh64(data, seed=0):
    """XXH64 by its specification."""
    p1, p2, p3, p4, p5 = PRIMES

    def step(lane, word):
        return rotate(lane + word * p2 & MASK, 31) * p1 & MASK

    whole = len(data) - len(data) % 32
    if whole:
        a, b, c, d = (seed + p1 + p2) & MASK, (seed + p2) & MASK, seed & MASK, (seed - p1) & MASK
        for one, two, three, four in struct.iter_unpack("<4Q", data[:whole]):
            a, b, c, d = step(a, one), step(b, two), step(c, three), step(d, four)
        value = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18) & MASK
        for lane in (a, b, c, d):
            value = ((value ^ step(0, lane)) * p1 + p4) & MASK
    else:
        value = (seed + p5) & MASK
    value = value + len(data) & MASK
    rest = data[whole:]
    while len(rest) >= 8:
        value = (rotate(value ^ step(0, struct.unpack("<Q", rest[:8])[0]), 27) * p1 + p4) & MASK
        rest = rest[8:]
    if len(rest) >= 4:
        value = (rotate(value ^ struct.unpack("<I", rest[:4])[0] * p1 & MASK, 23) * p2 + p3) & MASK
        rest = rest[4:]
    for byte in rest:
        value = rotate(value ^ byte * p5 & MASK, 11) * p1 & MASK
    for shift, prime in ((33, p2), (29, p3), (32, 1)):
        value = (value ^ value >> shift) * prime & MASK
    return value


def pkv_sections(data):
    records = [struct.unpack("<3Q", data[56 + 24 * i:80 + 24 * i]) for i in range(5)]
    return [data[offset:offset + size] for offset, size, _ in records]


def build_pkv(head, sections):
    """A file of these sections whose every length and checksum is right. head: the first 56 bytes of the original."""
    body, records = b"", b""
    for section in sections:
        padded = section + bytes(-len(section) % 4096)
        records += struct.pack("<3Q", 4096 + len(body), len(section), xxh64(padded))
        body += padded
    header = bytearray((head + records).ljust(4088, b"\0"))
    header[16:24] = struct.pack("<Q", 4096 + len(body))
    return bytes(header) + struct.pack("<Q", xxh64(bytes(header))) + body


def spoil_pkv(rng, data):
    """Mostly one section spoiled with right checksums, so that the reader's own checks are met."""
    if rng.random() < 0.25:
        return spoil_bytes(rng, data)
    head, sections = data[:56], pkv_sections(data)
    which = rng.choice([0, 0, 0, 1, 1, 2, 2, 3, 4])
    if which == 0:
        sections[0], what = spoil_json(rng, json.loads(sections[0]))
    elif rng.random() < 0.6 and len(sections[which]) >= 8:
        # One number of an array.
        size = {1: 4, 2: rng.choice([4, 8]), 3: 8, 4: 2}[which]
        at = rng.randrange(len(sections[which]) // size) * size
        value = (rng.choice(HUGE) & (1 << 8 * size) - 1).to_bytes(size, "little")
        sections[which] = sections[which][:at] + value + sections[which][at + size:]
        what = f"number at {at} becomes 0x{value[::-1].hex()}"
    else:
        sections[which], what = spoil_bytes(rng, sections[which])
    if rng.random() < 0.05:
        head = head[:8] + spoil_bytes(rng, head[8:])[0].ljust(48, b"\0")[:48]
        what += ", and the header"
    return build_pkv(head, sections), f"section {which}: {what}"
