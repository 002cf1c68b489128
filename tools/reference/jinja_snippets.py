"""Random small templates and what Jinja makes of them inside transformers' sandbox: chat_templates/snippets.json.

    jinja_snippets.py [COUNT [SEED [FILE]]]     more than the committed ones, for a longer comparison
"""
import copy
import json
import random
import sys
import warnings

from layout import OUT

VARIABLES = {
    "a": 3, "b": -7, "z": 0, "f": 2.5, "g": -0.125, "s": "Héllo, World", "t": "  pad\n", "e": "", "u": "straße ΣΑΣ ǆ İ", "n": None, "yes": True,
    "no": False, "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "ll": [[1, "x"], [2, "y"]], "d": {"x": 1, "y": [1, 2], "items": "own"}, "x": {},
    "m": [{"role": "user", "content": "Hi <b>", "n": 2}, {"role": "assistant", "content": "Yes & no", "n": 1},
          {"role": "user", "content": [{"type": "text", "text": "Parts"}, {"type": "image"}], "n": 2}]}
CONSTANTS = ["0", "1", "2", "-1", "10", "3.0", "1e20", "0.1", "1_000", "0x1f", "'a'", "'é\\n'", "''", "\"it's\"", "'Aa bB-cc'", "true", "none", "[]", "{}", "()", "[1, 2]",
             "('a', 'b')", "{'k': 1, 2: 'v'}", "[none, 'x', 1.5]", "'a,b,,c'", "' x '", "range(3)", "range(5, 0, -2)", "missing"]
NAMES = list(VARIABLES)
BINARY = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]
METHODS = ["strip()", "lstrip('H ')", "rstrip()", "split()", "split(',')", "split(None, 1)", "rsplit(' ', 1)", "startswith('H')", "endswith(('d', '\\n'))", "upper()", "lower()",
           "title()", "capitalize()", "replace('l', 'L')", "replace('', '.', 2)", "find('o')", "rfind('l', 2)", "count('l')", "join(ls)", "splitlines()", "isdigit()", "isspace()",
           "islower()", "isupper()", "zfill(5)", "center(9, '*')", "ljust(4)", "rjust(14, '-')", "partition('l')", "rpartition(',')", "removeprefix('H')", "removesuffix('d')",
           "index('zz')", "items()", "keys()", "values()", "get('x')", "get('q', 7)", "append(1)", "count(1)", "index(2)", "copy()", "pop()", "isalpha()", "isascii()",
           "is_integer()", "nothing()", "update({})"]
FILTERS = ["trim", "trim('H')", "upper", "lower", "title", "capitalize", "length", "count", "join", "join(', ')", "join('-', attribute='role')", "default('D')", "d('D', true)", "first",
           "last", "list", "string", "int", "int(5)", "float", "float(1.5)", "tojson", "tojson(indent=2)", "tojson(ensure_ascii=true)", "tojson(separators=(',', ':'))",
           "tojson(sort_keys=true)", "items|list", "map('upper')|list", "map(attribute='role')|join(',')", "map(attribute='q', default='-')|list", "map('length')|list",
           "select|list", "select('string')|list", "reject('none')|list", "selectattr('role', 'equalto', 'user')|list|length", "selectattr('n', '>', 1)|list",
           "rejectattr('content', 'string')|list", "selectattr('q')|list", "replace('l', 'r')", "replace('l', 'r', 1)", "reverse", "reverse|list", "sort", "sort(reverse=true)",
           "sort(case_sensitive=true)", "sort(attribute='n')|map(attribute='content')|list", "unique|list", "indent", "indent(2, true)", "indent('> ', blank=true)", "safe", "escape",
           "e", "safe ~ '<'", "dictsort", "dictsort(by='value')", "batch(2)|list", "batch(2, 0)|list", "sum", "sum(attribute='n')", "min", "max", "max(attribute='n')", "round",
           "round(1)", "round(1, 'floor')", "round(0, 'ceil')", "abs", "wordcount", "center(8)", "attr('x')", "nothing", "format(1)", "select('odd')|list", "map('int')|sum"]
TESTS = ["defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "float", "boolean", "true", "false", "equalto 1", "eq('a')", "ne 3",
         "in [1, 'a', none]", "odd", "even", "divisibleby 3", "lower", "upper", "gt 2", "lessthan(2)", "callable", "sameas none", "escaped", "nothing", "filter", "test"]
SUBSCRIPTS = ["[0]", "[-1]", "[1:]", "[:-1]", "[::-1]", "[::2]", "[5]", "[-3:2]", "[2:0:-1]", "['x']", "['items']", "['role']", ".x", ".role", ".items", ".y[1]", ".0", "[s]", "[l]", "[0].role",
              "['upper']()", "[none:2]", "[0:'a']", ".__class__", "[1.0]", "[true]"]


class Maker:
    def __init__(self, seed: int):
        self.random = random.Random(seed)

    def pick(self, options: list):
        return self.random.choice(options)

    def expression(self, depth: int) -> str:
        kind = self.random.random()
        if depth <= 0 or kind < 0.12:
            return self.pick(NAMES) if self.random.random() < 0.65 else self.pick(CONSTANTS)
        inner = lambda: self.expression(depth - 1)  # noqa: E731
        if kind < 0.32:
            return f"({inner()} {self.pick(BINARY)} {inner()})"
        if kind < 0.55:
            return f"{inner()}|{self.pick(FILTERS)}"
        if kind < 0.65:
            return f"({inner()}).{self.pick(METHODS)}"
        if kind < 0.75:
            # What Jinja computes from constants alone, before it runs, hides a wrong slice: always with a variable.
            return f"({self.pick(NAMES)} or {inner()}){self.pick(SUBSCRIPTS)}" if self.random.random() < 0.3 else f"{self.pick(NAMES)}{self.pick(SUBSCRIPTS)}"
        if kind < 0.83:
            return f"({inner()} is {self.pick(['', 'not '])}{self.pick(TESTS)})"
        if kind < 0.87:
            return f"({inner()} if {inner()}" + (f" else {inner()})" if self.random.random() < 0.7 else ")")
        if kind < 0.90:
            return f"{self.pick(['not ', '-', '+'])}({inner()})"
        if kind < 0.93:
            return f"[{inner()}, {inner()}]"
        if kind < 0.95:
            return f"{{'k': {inner()}, {inner()}: 1}}"
        if kind < 0.97:
            return f"({inner()} < {inner()} <= {inner()})"
        return f"{self.pick(['dict(a=1, **d)', 'dict(ll)', 'namespace(q=1).q', 'cycler(1, 2).next()', 'joiner()()', 'range(l[0])|list', 'namespace(d)'])}"

    def space(self) -> str:
        return self.pick(["", "", " ", "\n", "\n  ", "x", " y\n", "\t", "\n\n"])

    def tag(self, text: str) -> str:
        return "{%" + self.pick(["", "", "", "-", "+"]) + f" {text} " + self.pick(["", "", "", "-", "+"]) + "%}"

    def output(self) -> str:
        return "{{" + self.pick(["", "", "-"]) + f" {self.expression(2)} " + self.pick(["", "", "-"]) + "}}"

    def body(self, depth: int) -> str:
        return "".join(self.space() + self.statement(depth) for _ in range(self.pick([1, 1, 2, 3]))) + self.space()

    def statement(self, depth: int) -> str:
        kind = self.random.random()
        body = lambda: self.body(depth - 1)  # noqa: E731
        name = lambda: self.pick(["v", "w", "a", "s", "i"])  # noqa: E731
        if depth <= 0 or kind < 0.25:
            return self.pick(["{{ v }}", "{{ w }}", "{{ i }}", "{{ a }}", "{{ ns.v }}"]) if self.random.random() < 0.4 else self.output()
        if kind < 0.40:
            middle = (self.tag(f"elif {self.expression(1)}") + body()) if self.random.random() < 0.3 else ""
            last = (self.tag("else") + body()) if self.random.random() < 0.4 else ""
            return self.tag(f"if {self.expression(1)}") + body() + middle + last + self.tag("endif")
        if kind < 0.60:
            target = self.pick(["i", "i", "v", "v, w", "i, (v, w)"])
            source = self.pick(["l", "ls", "m", "d", "d.items()", "ll", "s", "range(3)", "x", "missing", "ls|reverse", "l[::-1]", "[1, [2, 3]]", self.expression(1)])
            test = f" if {self.pick(['i', 'v', 'a', 'i != 1', 'loop', 'not w'])}" if self.random.random() < 0.25 else ""
            inside = self.pick(["", "", "{{ loop.index }}", "{{ loop.first }}{{ loop.last }}", "{{ loop.previtem }}|{{ loop.nextitem }}", "{{ loop.revindex0 }}/{{ loop.length }}",
                                "{{ loop.cycle('p', 'q') }}", "{{ loop.changed(i) }}", "{% if loop.index0 == 1 %}{% break %}{% endif %}", "{% if loop.first %}{% continue %}{% endif %}",
                                "{{ loop }}", "{% set ns.v = ns.v ~ i %}"])
            other = (self.tag("else") + body()) if self.random.random() < 0.2 else ""
            return self.tag(f"for {target} in {source}{test}") + inside + body() + other + self.tag("endfor")
        if kind < 0.75:
            target = self.pick([name(), name(), f"{name()}, {name()}", "ns.v", "ns.w"])
            return self.tag(f"set {target} = {self.expression(2)}")
        if kind < 0.80:
            return self.tag(f"set {name()}" + self.pick(["", " | upper", " | trim | length"])) + body() + self.tag("endset")
        if kind < 0.88:
            macro = self.pick(["f", "h"])
            signature = self.pick(["", "i", "i, v=2", "v, w=a, i='q'"])
            extra = self.pick(["", "", "{{ varargs }}", "{{ kwargs }}", "{{ caller() }}"])
            call = self.pick([f"{macro}()", f"{macro}(1)", f"{macro}(1, v=3)", f"{macro}(1, 2, 3, 4)", f"{macro}(q=1)", f"{macro}(*l)"])
            use = f"{{{{ {call} }}}}" if self.random.random() < 0.7 else self.tag(f"call {call}") + body() + self.tag("endcall")
            return self.tag(f"macro {macro}({signature})") + extra + body() + self.tag("endmacro") + use
        if kind < 0.91:
            return self.tag(f"filter {self.pick(['upper', 'trim', 'replace(s[0], a|string)', 'length', 'title'])}") + body() + self.tag("endfilter")
        if kind < 0.94:
            return self.tag(f"with {name()} = {self.expression(1)}") + body() + self.tag("endwith")
        if kind < 0.96:
            return self.tag("raw") + self.pick(["{{ a }}", " {% if %} ", "\n"]) + self.tag("endraw")
        if kind < 0.98:
            return "{#" + self.pick(["", "-", "+"]) + " c " + self.pick(["", "-", "+"]) + "#}"
        return self.tag("generation") + body() + self.tag("endgeneration")

    def snippet(self) -> str:
        if self.random.random() < 0.6:
            return "{{ " + self.expression(3) + " }}"
        start = "{% set ns = namespace(v='0') %}" if self.random.random() < 0.4 else ""
        return start + self.body(3) + self.pick(["", "\n"])


def render(template: str) -> str | None:
    """What transformers renders; None: an error."""
    warnings.simplefilter("ignore", SyntaxWarning)  # Python compiles 3[0] with a warning
    from transformers.utils.chat_template_utils import _compile_jinja_template
    try:
        return _compile_jinja_template(template).render(**copy.deepcopy(VARIABLES))  # the filter indent changes lists
    except Exception:  # whatever Python raises, the template fails
        return None


def make(count: int, seed: int) -> list:
    maker, rows, seen = Maker(seed), [], set()
    while len(rows) < count:
        template = maker.snippet()
        if template in seen or len(template) > 400:
            continue
        seen.add(template)
        text = render(template)
        # An address differs from run to run; a long text tells nothing more; most errors say little.
        unstable = text is not None and (" object at 0x" in text or " at 0x" in text or len(text) > 1500 or "\udc00" <= max(text, default="") <= "\udfff")
        if unstable or (text is None and maker.random.random() < 0.75):
            continue
        rows.append([template, text])
    return rows


def write(path, count: int, seed: int) -> None:
    rows = make(count, seed)
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    about = "snippets: [template, text]; null: an error. Rendered with transformers' Jinja environment and the variables"
    path.write_text(f'{{"about": {json.dumps(about)},\n"variables": {json.dumps(VARIABLES, ensure_ascii=False)},\n"snippets": [\n{lines}\n]}}\n', encoding="utf-8")
    print("snippets", len(rows), "errors", sum(text is None for _, text in rows))


def main() -> None:
    path = OUT / "chat_templates"
    path.mkdir(parents=True, exist_ok=True)
    write(path / "snippets.json", 900, 7)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        from pathlib import Path
        write(Path(sys.argv[3]), int(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
