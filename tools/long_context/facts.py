"""Sentences that no text holds by itself, strewn into one, and questions about them.

Every family has one form of sentence for many subjects: those that are not asked for are distractors, which a cache that kept
only "a sentence about a code" would confuse. Values are short, and no two facts of a document have the same.
"""
import collections

WORDS = ("amber", "walnut", "velvet", "cedar", "saffron", "marble", "copper", "juniper", "linen", "basalt", "pepper", "coral", "maple",
         "indigo", "barley", "cobalt", "thistle", "ginger", "pewter", "willow", "quartz", "lavender", "birch", "crimson", "mustard",
         "onyx", "poplar", "sapphire", "tulip", "vanilla", "heather", "ivory", "jasmine", "lemon", "nutmeg", "olive", "topaz", "plum")
ANIMALS = ("badger", "heron", "tortoise", "ferret", "goose", "hedgehog", "parrot", "donkey", "falcon", "otter", "rabbit", "raven",
           "salamander", "squirrel", "weasel", "pigeon", "lizard", "hamster", "goat", "canary")
GOODS = ("timber", "sugar", "coffee", "bricks", "wool", "salt", "cement", "oranges", "tea", "rice", "tobacco", "paper", "wine", "cork",
         "grain", "leather", "honey", "bananas", "cocoa", "potatoes")
PEOPLE = ("Mara Lind", "Jonas Weber", "Priya Nair", "Tomas Novak", "Elena Rossi", "Kofi Mensah", "Ingrid Dahl", "Pedro Alvarez",
          "Yuki Tanaka", "Anna Kowalska", "Samir Haddad", "Lucia Moreau")

# statements, question, several, change and now are forms: {s} the subject, {v} the value, {all} a list of subjects.
Family = collections.namedtuple("Family", "name subjects values statements question several change now")

FAMILIES = (
    Family("code", ("silver", "green", "wooden", "yellow", "northern", "iron", "round", "blue", "narrow", "white", "upper", "glass"),
           tuple(str(n) for n in range(1013, 9990, 37)),
           ("The code of the {s} door is {v}.", "Note: the code of the {s} door is {v}.",
            "Visitors should remember that the code of the {s} door is {v}."),
           "What is the code of the {s} door?", "What are the codes of {all}? They are doors.",
           "The code of the {s} door was changed: from now on it is {v}.", "What is the code of the {s} door now?"),
    Family("year", ("Oberau", "Linwick", "Castrello", "Norhavn", "Velbourg", "Tamsin Hill", "Port Edda", "Quarryfield", "Zelmary",
                    "Dunmere", "Askholm", "Rivetta"),
           tuple(str(n) for n in range(1203, 1897, 7)),
           ("The village of {s} was founded in {v}.", "It is said that the village of {s} was founded in {v}.",
            "The village of {s} was founded in {v}, long before its church was built."),
           "In which year was the village of {s} founded?", "In which years were {all} founded? They are villages.",
           "A correction: the village of {s} was founded in {v}, as the archive shows.",
           "In which year was the village of {s} founded, after the correction?"),
    Family("room", ("geology", "music", "bees", "glaciers", "poetry", "bridges", "mushrooms", "lighthouses", "chess", "volcanoes",
                    "weaving", "comets"),
           tuple(str(n) for n in range(103, 990, 13)),
           ("The lecture on {s} takes place in room {v}.", "Please note that the lecture on {s} takes place in room {v}.",
            "The lecture on {s}, as always, takes place in room {v}."),
           "In which room does the lecture on {s} take place?", "In which rooms do the lectures on {all} take place?",
           "The lecture on {s} had to move: it now takes place in room {v}.", "In which room does the lecture on {s} take place now?"),
    Family("pet", PEOPLE, ANIMALS,
           ("{s} keeps a {v} as a pet.", "Few people know that {s} keeps a {v} as a pet.", "At home, {s} keeps a {v} as a pet."),
           "Which animal does {s} keep as a pet?", "Which animals do {all} keep as pets?",
           "{s} has given the old pet away and keeps a {v} as a pet now.", "Which animal does {s} keep as a pet now?"),
    Family("cargo", ("Albatross", "Meridian", "Sirocco", "Northwind", "Calypso", "Halcyon", "Esperanza", "Valiant", "Tramontana",
                     "Polaris", "Aurora", "Cormorant"), GOODS,
           ("The ship {s} carries a cargo of {v}.", "The harbour master reports that the ship {s} carries a cargo of {v}.",
            "The ship {s} is on its way and carries a cargo of {v}."),
           "What cargo does the ship {s} carry?", "What cargo do {all} carry? They are ships.",
           "The ship {s} was unloaded and now carries a cargo of {v}.", "What cargo does the ship {s} carry now?"),
    Family("password", ("archive", "garden", "kitchen", "library", "museum", "theatre", "station", "workshop", "chapel", "harbour",
                        "factory", "school"), WORDS,
           ("The password of the {s} printer is {v}.", "For printing, the password of the {s} printer is {v}.",
            "Staff know that the password of the {s} printer is {v}."),
           "What is the password of the {s} printer?", "What are the passwords of {all}? They are printers.",
           "The password of the {s} printer has been replaced, and the new one is {v}.",
           "What is the password of the {s} printer now?"),
)

SUBJECTS_SAID = {"code": "the {s} door", "year": "{s}", "room": "{s}", "pet": "{s}", "cargo": "the {s}", "password": "the {s} printer"}
# The last line is for models that were not trained to answer: they go on behind it.
ANSWER = "\nAnswer in a few words.\nAnswer:"
ONE_WORD = "\nAnswer with one word.\nAnswer:"

# task; prompt; answer: what a person would say; contains, lacks: as purekv's data has them; number: of the fact asked for.
Question = collections.namedtuple("Question", "task prompt answer contains lacks")


def listed(items):
    return " and ".join(items)


class Facts:
    """The facts of one document: `strewn`, groups of sentences in their order, and the questions about them."""

    def __init__(self, draw, text):
        self._draw = draw
        self._used = set(text.lower().replace(".", " ").replace(",", " ").split())  # a value that the text says is no needle
        self.groups = []  # each a list of paragraphs that keep their order
        self.questions = []
        families = draw.shuffled(FAMILIES)
        for family in families[:2]:
            self._stated(family)
        for family in families[2:4]:
            self._changed(family)
        self._table()

    def _values(self, values, count):
        free = [value for value in self._draw.shuffled(values) if value not in self._used][:count]
        if len(free) < count:
            raise ValueError("the text uses up the values of a family")
        self._used.update(free)
        return free

    def _say(self, family, subject, value):
        return self._draw.pick(family.statements).format(s=subject, v=value)

    def _stated(self, family):
        """Five facts of one form: one is asked for alone, two others together (three are more than these small models can say)."""
        subjects = self._draw.sample(family.subjects, 5)
        values = self._values(family.values, 5)
        self.groups += [[self._say(family, s, v)] for s, v in zip(subjects, values)]
        self.questions.append(Question("needle", family.question.format(s=subjects[0]) + ANSWER, values[0], values[:1], values[1:]))
        said = listed([SUBJECTS_SAID[family.name].format(s=s) for s in subjects[1:3]])
        self.questions.append(Question("several", family.several.format(all=said) + ANSWER, listed(values[1:3]), values[1:3],
                                       [values[0], *values[3:]]))

    def _changed(self, family):
        """One fact that is changed later, one of the same form that is not."""
        subject, other = self._draw.sample(family.subjects, 2)
        old, new, different = self._values(family.values, 3)
        self.groups.append([self._say(family, subject, old), family.change.format(s=subject, v=new)])
        self.groups.append([self._say(family, other, different)])
        self.questions.append(Question("changed", family.now.format(s=subject) + ANSWER, new, [new], [old, different]))

    def _table(self):
        """Twelve keys with their values, in three pieces; two of them are asked for."""
        keys = [f"K{number}" for number in self._draw.sample(range(100, 1000), 12)]
        values = self._values(WORDS, 12)
        for piece in range(0, 12, 4):
            lines = [f"{key} = {value}" for key, value in zip(keys[piece:piece + 4], values[piece:piece + 4])]
            self.groups.append(["Table of keys:\n" + "\n".join(lines)])
        for number in self._draw.sample(range(12), 2):
            others = [value for value in values if value != values[number]]
            self.questions.append(Question("lookup", f"What does {keys[number]} stand for?" + ONE_WORD,
                                           values[number], [values[number]], others))

    def size(self):
        """Characters that they add to the text."""
        return sum(len(paragraph) + 2 for group in self.groups for paragraph in group)


def strew(draw, paragraphs, groups):
    """The text with every group's paragraphs spread over it: at evenly spaced depths, in random order, a group's own order kept."""
    total = sum(len(paragraph) + 2 for paragraph in paragraphs)
    count = sum(len(group) for group in groups)
    depths = draw.shuffled([(i + draw.share()) / count for i in range(count)])
    placed = []
    for group in groups:
        own, depths = sorted(depths[:len(group)]), depths[len(group):]
        placed += zip(own, group)
    placed.sort()
    out, seen, next_fact = [], 0, 0
    for paragraph in paragraphs:
        middle = (seen + len(paragraph) / 2) / total
        while next_fact < count and placed[next_fact][0] <= middle:
            out.append(placed[next_fact][1])
            next_fact += 1
        out.append(paragraph)
        seen += len(paragraph) + 2
    out += [fact for _, fact in placed[next_fact:]]
    return "\n\n".join(out)
