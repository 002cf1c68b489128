"""What an answer is worth, as MileBench judges it. Texts are cleaned first; then by kind (tasks.kind_of)."""
import re

# MileBench takes these out where one of them stands beside a space in the text, and puts a space in their place elsewhere.
MARKS = ";/[]\"{}()=+\\_-><@`,?!"
DIGITS_WITH_COMMA = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
MOST_PERIODS = 32  # MileBench's code stops there; a few long answers have more, and what is left parts them into sentences


def clean(text):
    """Lower case on one line, without punctuation; a period stays in front of a digit."""
    text = " ".join(re.split(r"[\n\t]", text)).strip()
    numbers = DIGITS_WITH_COMMA.search(text) is not None
    out = text
    for mark in MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if numbers or beside_space else " ")
    return PERIOD.sub("", out, count=MOST_PERIODS).strip("'").strip('"').strip().lower()


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
    """A longest common subsequence of two lists; of several the one that is found from the end, leaving out of b first."""
    lengths = [[0] * (len(b) + 1)]  # [i][j]: of the first i and j elements
    for one in a:
        row = [0]
        for j, other in enumerate(b):
            row.append(lengths[-1][j] + 1 if one == other else max(lengths[-1][j + 1], row[j]))
        lengths.append(row)
    found, i, j = [], len(a), len(b)
    while i > 0 and j > 0:
        if a[i - 1] == b[j - 1]:
            i, j = i - 1, j - 1
            found.append(a[i])
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found[::-1]


def rouge_l(answer, reference):
    """ROUGE-L of texts (Lin 2004, section 3.2, beta 1): F1 of the words that longest common subsequences of their sentences have, united,
    among the words of each. Every word counts once, as the `rouge` package has it by which MileBench's figures are made; where no word
    repeats and there is one sentence, that is 2 LCS / (words of the one + words of the other)."""
    said, wanted = ([sentence.split() for sentence in text.split(".") if sentence.split()] for text in (answer, reference))
    common = {word for one in wanted for other in said for word in longest_common(one, other)}
    words = len({word for one in said for word in one}) + len({word for one in wanted for word in one})
    return 2 * len(common) / words if common else 0.0


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
