#!/usr/bin/env python3
"""Writes the section of one model in docs/results-forms.md, and its picture, from the results that scripts/forms.sh left.

    tools/cache_forms/table.py RUN --name demo [--page docs/results-forms.md] [--picture docs/results/forms-demo.svg]

RUN is a directory of `purekv eval`. Settings are ordered by the bytes that they keep; those that no other setting beats in both bytes
and KL stand in bold: the frontier. Without --page the section is printed. Python's standard library only.
"""
import argparse
import collections
import json
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "long_context"))
import intervals  # noqa: E402

# bytes: kept, of the full cache's; read: a decoding step's, of the full cache's (None where the run does not say); lists by question.
Setting = collections.namedtuple("Setting", "policy budget bytes read score agreement kl")
KINDS = (("eviction", "#1f77b4"), ("fewer bits", "#2ca02c"), ("both", "#d62728"), ("merging", "#9467bd"), ("other forms", "#ff7f0e"))
MERGE = ("kvmerger", "look-m", "elastic")


class Problem(Exception):
    """One line for people."""


def read(path):
    """{(policy, budget): [(unit of the bootstrap, bytes, read, score, agreement, kl)]} of whole lines."""
    found = collections.defaultdict(list)
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                break  # a run that is still at work, or was killed
            try:
                one = json.loads(line)
                kv, metrics = one["kv"], one["metrics"]
                full = kv["bytes_full"]
                read_bytes = kv["bytes_attended_mean"] / full if kv.get("bytes_attended_mean") else None
                found[one["policy"], one["budget"]].append((one["id"], one["video"], kv["bytes_kept"] / full, read_bytes, one["score"],
                                                            metrics.get("agreement"), metrics.get("kl")))
            except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
                raise Problem(f"{path}:{number}: no result of an evaluation: {error!r}") from error
    return found


def settings(found):
    """Those of every question that all settings have answered; of a setting that no budget changes, one. -> (settings, questions)"""
    common = set.intersection(*({one[0] for one in answers} for answers in found.values())) if found else set()
    if not common:
        raise Problem("no question has been answered under all settings")
    kept = []
    for (policy, budget), answers in found.items():
        if policy.startswith("full:") and budget != max(b for p, b in found if p == policy):
            continue
        of = sorted((one for one in answers if one[0] in common), key=lambda one: one[0])
        pairs = lambda at: [(one[1], one[at]) for one in of if one[at] is not None]  # noqa: E731
        kept.append(Setting(policy, 1.0 if policy.startswith("full") else budget, mean(pairs(2)), mean(pairs(3)), pairs(4), pairs(5), pairs(6)))
    return sorted(kept, key=lambda one: (-one.bytes, one.policy)), len(common)


def mean(pairs):
    return sum(value for _, value in pairs) / len(pairs) if pairs else None


def kind(policy):
    merges = "merge=" in policy or policy.split(":")[0] in MERGE
    bits = "keys=int" in policy or "values=int" in policy
    if policy.startswith("full:"):
        return "fewer bits" if bits else "other forms"
    return "both" if bits else "merging" if merges else "eviction"


def frontier(kept):
    """Settings with fewer bytes than all that have as small a KL."""
    best, found = math.inf, set()
    for one in sorted(kept, key=lambda one: (one.bytes, mean(one.kl) or 0)):
        loss = mean(one.kl) or 0
        if loss < best:
            found.add((one.policy, one.budget))
            best = loss
    return found


def cell(pairs, digits):
    if not pairs:
        return "-"
    if len({unit for unit, _ in pairs}) == 1:  # of one video or text there is nothing to draw from
        return f"{mean(pairs):.{digits}f}"
    middle, low, high = intervals.bootstrap(pairs)
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def section(name, kept, questions):
    best = frontier(kept)
    lines = [f"<!-- {name}: begin, made by scripts/forms.sh -->", "",
             f"{questions} questions, each under every setting; bytes are shares of the plain cache's. Bold: fewer bytes than all that lose as little.", "",
             "| setting | budget | bytes kept | bytes a step reads | score [95 %] | agreement | KL [95 %] |", "|---|---|---|---|---|---|---|"]
    for one in kept:
        bold = "**" if (one.policy, one.budget) in best else ""
        shown = f"{one.read:.3f}" if one.read is not None else "-"
        policy = one.policy.split("basis=")[0] + "basis=FILE" if "basis=" in one.policy else one.policy
        lines.append(f"| {bold}`{policy}`{bold} | {one.budget:g} | {one.bytes:.3f} | {shown} | {cell(one.score, 3)} | "
                     f"{mean(one.agreement) or 0:.3f} | {cell(one.kl, 4)} |")
    return "\n".join([*lines, "", f"<!-- {name}: end -->"]) + "\n"


def place(page, name, text):
    """The section takes the place of the one that the page has."""
    begin, end = f"<!-- {name}: begin, made by scripts/forms.sh -->", f"<!-- {name}: end -->"
    if begin not in page or end not in page:
        raise Problem(f"the page has no place for {name}: {begin!r} ... {end!r}")
    before, rest = page.split(begin, 1)
    return before + text.rstrip("\n") + rest.split(end, 1)[1]


def picture(kept):
    """KL against bytes, both logarithmic, coloured by kind."""
    width, height, margin, floor = 640, 400, 56, 1e-5
    points = [(one, min(max(one.bytes, 0.01), 1.2), max(mean(one.kl) or 0, floor)) for one in kept if one.policy != "full"]
    x0, x1, y0, y1 = math.log10(0.03), math.log10(1.2), math.log10(floor), math.log10(2)
    x = lambda value: margin + (math.log10(value) - x0) / (x1 - x0) * (width - 2 * margin)  # noqa: E731
    y = lambda value: height - margin - (math.log10(value) - y0) / (y1 - y0) * (height - 2 * margin)  # noqa: E731
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" '
           'font-size="12">', '<rect width="100%" height="100%" fill="white"/>']
    for share in (0.03, 0.05, 0.1, 0.2, 0.4, 1):
        out.append(f'<path d="M{x(share):.1f} {margin}V{height - margin}" stroke="#ddd"/><text x="{x(share):.1f}" y="{height - margin + 16}" '
                   f'text-anchor="middle">{share:g}</text>')
    for loss in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1):
        label = "0.00001 or less" if loss == floor else f"{loss:g}"
        out.append(f'<path d="M{margin} {y(loss):.1f}H{width - margin}" stroke="#ddd"/><text x="{margin + 4}" y="{y(loss) - 3:.1f}">{label}</text>')
    out.append(f'<text x="{width / 2}" y="{height - 16}" text-anchor="middle">bytes kept, of the plain cache</text>')
    out.append(f'<text x="{margin}" y="{margin - 32}">KL to the full cache, nats a token</text>')
    for at, (label, colour) in enumerate(KINDS):
        left = margin + 110 * at
        out.append(f'<circle cx="{left + 5}" cy="{margin - 14}" r="4" fill="{colour}"/><text x="{left + 14}" y="{margin - 10}">{label}</text>')
    best = frontier(kept)
    line = sorted((x(share), y(loss)) for one, share, loss in points if (one.policy, one.budget) in best)
    if line:
        out.append('<path d="M' + "L".join(f"{a:.1f} {b:.1f}" for a, b in line) + '" fill="none" stroke="#888" stroke-dasharray="4 3"/>')
    for one, share, loss in points:
        colour = dict(KINDS)[kind(one.policy)]
        out.append(f'<circle cx="{x(share):.1f}" cy="{y(loss):.1f}" r="4" fill="{colour}"><title>{one.policy}, budget {one.budget:g}</title></circle>')
    return "\n".join([*out, "</svg>"]) + "\n"


def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("run", type=pathlib.Path)
    ap.add_argument("--name", required=True)
    ap.add_argument("--page", type=pathlib.Path)
    ap.add_argument("--picture", type=pathlib.Path)
    args = ap.parse_args(argv)
    try:
        kept, questions = settings(read(args.run / "results.jsonl"))
        text = section(args.name, kept, questions)
        if args.page:
            args.page.write_text(place(args.page.read_text(encoding="utf-8"), args.name, text), encoding="utf-8")
        else:
            sys.stdout.write(text)
        if args.picture:
            args.picture.write_text(picture(kept), encoding="utf-8")
    except (Problem, OSError) as error:
        print(f"table.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
