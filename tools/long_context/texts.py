"""Texts that are on the machine anyway: licences, Python's manual of its language, Python's own modules.

Nothing of them is part of the repository. Other versions of them make another benchmark: manifest.json, which make.py writes, has
their digests.
"""
import ast
import collections
import hashlib
import importlib
import pathlib
import re
import sysconfig

LICENCES = pathlib.Path("/usr/share/common-licenses")
# Characters per token, measured with the tokenizers of the models of tools/real_models (SmolLM2 has the most tokens: 4.6, 4.1, 3.9).
CHARACTERS_PER_TOKEN = {"licence": 4.6, "manual": 4.2, "module": 4.0}

Source = collections.namedtuple("Source", "kind name text")
# A function to be continued: `before` is the text up to its body, behind the docstring; `rest` is the body.
Function = collections.namedtuple("Function", "module name before rest")


class Problem(Exception):
    """One line for people."""


class Draw:
    """Draws that are the same in every version of Python: made of random() alone, whose sequence is guaranteed."""

    def __init__(self, random):
        self._random = random

    def share(self):
        """A number from 0 to 1, without 1."""
        return self._random.random()

    def below(self, count):
        return int(self._random.random() * count)

    def pick(self, items):
        return items[self.below(len(items))]

    def shuffled(self, items):
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items

    def sample(self, items, count):
        return self.shuffled(items)[:count]


def clean(text):
    """Line ends as \\n, no form feeds, no spaces at the end of a line, no more than one empty line in a row."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n").replace("\0", "")
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def licences(folder=LICENCES):
    """The licence texts of Debian; none elsewhere."""
    found = []
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if path.is_symlink() or not path.is_file():
            continue
        try:
            text = clean(path.read_bytes().decode("utf-8"))
        except UnicodeDecodeError:
            continue
        if len(text) >= 3000:  # below that a licence is a passage of nothing
            found.append(Source("licence", path.name, text))
    return found


def manual():
    """The chapters of Python's language reference that `help()` shows."""
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise Problem(f"Python's pydoc_data is missing: {error}") from error
    return [Source("manual", name, clean(text)) for name, text in sorted(topics.items()) if len(text) >= 1500]


def modules(folder=None):
    """The modules of Python's standard library that are one file."""
    folder = pathlib.Path(folder or sysconfig.get_path("stdlib"))
    found = []
    for path in sorted(folder.glob("*.py")):
        try:
            text = clean(path.read_bytes().decode("utf-8"))
        except (OSError, UnicodeDecodeError):
            continue
        if len(text) >= 3000:
            found.append(Source("module", path.name, text))
    if not found:
        raise Problem(f"{folder}: no modules of Python there")
    return found


def digest(sources):
    """SHA-256 over names and texts."""
    total = hashlib.sha256()
    for source in sources:
        total.update(f"{source.kind}\0{source.name}\0{source.text}\0".encode())
    return total.hexdigest()


def cut(paragraphs, characters):
    """The first paragraphs, together at most so long; the last of them ends at a line's end."""
    kept, left = [], characters
    for paragraph in paragraphs:
        if len(paragraph) > left:
            end = paragraph.rfind("\n", 0, left + 1)
            return kept + [paragraph[:end]] if end > 0 else kept
        kept.append(paragraph)
        left -= len(paragraph) + 2
    return kept


class Passages:
    """Passages of whole paragraphs, one behind the other through the shuffled sources of a kind: no two share text before all of it was used."""

    def __init__(self, draw, sources):
        self._draw = draw
        self._sources = sources
        self._paragraphs = collections.deque()
        self.rounds = 0  # times that all texts were begun

    def take(self, characters):
        """At most so many characters, as a list of paragraphs and the names of their sources."""
        taken, names, left = [], [], characters
        while left > 0:
            if not self._paragraphs:
                self.rounds += 1
                for source in self._draw.shuffled(self._sources):
                    self._paragraphs.extend((source.name, part) for part in source.text.split("\n\n") if part.strip())
            name, part = self._paragraphs[0]
            some = cut([part], left)
            if not some:
                break
            taken += some
            if name not in names:
                names.append(name)
            left -= len(some[0]) + 2
            if some[0] == part:
                self._paragraphs.popleft()
            else:  # what is left of it begins the next passage
                self._paragraphs[0] = (name, part[len(some[0]) + 1:])
                break
        return taken, names


def functions(source):
    """Functions of a module with a body of 6 to 40 lines behind signature and docstring."""
    try:
        tree = ast.parse(source.text)
    except (SyntaxError, ValueError, RecursionError):
        return []
    lines = source.text.split("\n")
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or not node.body:
            continue
        body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
        if not body or body[0].lineno <= node.lineno:
            continue
        first, last = body[0].lineno - 1, body[-1].end_lineno
        if 6 <= last - first <= 40:
            found.append(Function(source.name, node.name, "\n".join(lines[:first]) + "\n", "\n".join(lines[first:last])))
    return sorted(found, key=lambda one: len(one.before))
