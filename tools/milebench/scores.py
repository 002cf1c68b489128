"""What an answer is worth, as MileBench judges it. Texts are cleaned first; then by kind (tasks.kind_of)."""
import re

# MileBench takes these out where one of them stands beside a space in the text, and puts a space in their place elsewhere.
MARKS = ";/[]\"{}()=+\\_-><@`,?!"
DIGITS_WITH_COMMA = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")


def clean(text):
    """Lower case on one line, without punctuation; a period stays in front of a digit."""
    text = " ".join(re.split(r"[\n\t]", text)).strip()
    numbers = DIGITS_WITH_COMMA.search(text) is not None
    out = text
    for mark in MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if numbers or beside_space else " ")
    return PERIOD.sub("", out).strip("'").strip('"').strip().lower()


def letter(index):
    """The name of an option: A to Z, then AA to AZ, BA and so on, as GPR1200 needs them."""
    return chr(ord("A") + index) if index < 26 else letter(index // 26 - 1) + letter(index % 26)


def first_found(text, parts):
    """Index of the part that stands first in the text (of several there, the one listed first); None: no one does."""
    best = None
    for index, part in enumerate(parts):
        at = text.find(part) if part else -1
        if at >= 0 and (best is None or at < best[0]):
            best = (at, index)
    return None if best is None else best[1]


def chosen(answer, options):
    """Name of the option that a cleaned answer picks: by letter and text, by its text (spaces do not count), by its letter alone; else the
    letters of options that occur in the answer, which is right where that is one. "" for an empty answer."""
    names = [letter(i) for i in range(len(options))]
    cleaned = [clean(option) for option in options]
    index = first_found(answer, [clean(f"{name} {option}") if option else "" for name, option in zip(names, cleaned)])
    if index is None:
        index = first_found(answer.replace(" ", ""), [option.replace(" ", "") for option in cleaned])
    if index is not None:
        return names[index]
    if answer.upper() in names:
        return answer.upper()
    return "".join(one for one in answer.upper() if one in names)


def longest_common(a, b):
    """Length of the longest common subsequence of two lists."""
    row = [0] * (len(b) + 1)
    for one in a:
        before = 0
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if one == other else max(row[j], row[j - 1])
    return row[-1]


def rouge_l(answer, reference):
    """F1 of the longest common subsequence of words (Lin 2004, beta 1): 2 LCS / (words of the one + words of the other)."""
    said, wanted = answer.split(), reference.split()
    return 2 * longest_common(said, wanted) / (len(said) + len(wanted)) if said and wanted else 0.0


def score(question, answer):
    """0 to 1. question: a line of convert.py."""
    said, wanted = clean(answer), clean(question["answer"])
    kind = question["judged"]
    if kind == "choice":
        options = [clean(option) for option in question["options"]]
        return float(chosen(said, question["options"]) == letter(options.index(wanted)))
    if kind == "word":
        return float(wanted in said.split())
    if kind == "part":
        return float(wanted in said)
    if kind == "rouge-l":
        return rouge_l(said, wanted)
    raise ValueError(f"judged: {kind!r}")
