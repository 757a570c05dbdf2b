"""How people call the rows of a table: one of them, and several."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# One, and several, where the endings do not say it.
IRREGULAR = {
    "person": "people", "child": "children", "man": "men", "woman": "women", "foot": "feet",
    "mouse": "mice", "tooth": "teeth", "quiz": "quizzes", "criterion": "criteria",
    "index": "indices", "vertex": "vertices", "matrix": "matrices", "hero": "heroes",
    "analysis": "analyses", "diagnosis": "diagnoses", "crisis": "crises", "thesis": "theses",
    "hypothesis": "hypotheses", "synopsis": "synopses",
    "movie": "movies", "cookie": "cookies", "selfie": "selfies", "calorie": "calories",
    "tie": "ties", "pie": "pies", "cache": "caches", "niche": "niches", "alias": "aliases",
    "bias": "biases", "canvas": "canvases", "atlas": "atlases", "gas": "gases", "shoe": "shoes",
    "shelf": "shelves", "half": "halves", "life": "lives", "knife": "knives", "wife": "wives",
}  # fmt: skip
ONE_OF = {several: one for one, several in IRREGULAR.items()}
# The same for one and several, or a mass of which there is no one.
UNCOUNTED = ("data", "media", "staff", "series", "species", "news", "feedback", "information")
# An ending of several, and of one. The first that fits decides.
ENDINGS = (
    (r"([^aeiou])ies", r"\1y"),
    (r"(ss|sh|ch|x|zz)es", r"\1"),
    (r"(au|ou)ses", r"\1se"),
    (r"uses", "us"),
    (r"oes", "o"),
    (r"([^su])s", r"\1"),
)
MARKS = ("v", "t", "vw", "mv", "tb", "tbl", "dim", "fct", "stg", "view")  # of a kind of relation
OF_A_KEY = ("id", "uuid", "key", "ref", "no")
NEAR = 3  # two forms of a word differ in no more than its last letters
LONGEST = 30


@dataclass(frozen=True, slots=True)
class Words:
    """How rows are called. is_sure: the name itself, or a column about it, says it."""

    one: str
    several: str
    is_sure: bool


def singular(word: str) -> str:
    """One of what a table is named for."""
    head, noun = _parts(word)
    return head + _one_of(noun)


def plural(word: str) -> str:
    """Several of what one is called."""
    head, noun = _parts(word)
    if noun in UNCOUNTED:
        return word
    if noun in IRREGULAR:
        return head + IRREGULAR[noun]
    if re.search(r"[^aeiou]y$", noun):
        return f"{word[:-1]}ies"
    return f"{word}es" if re.search(r"(s|sh|ch|x|z)$", noun) else f"{word}s"


def called(table: str, columns: Iterable[str]) -> Words | None:
    """How the rows of a table are called. None if its name has no words.

    columns: those of other tables that name its rows. An `order_id` says that one is an order.
    """
    named = _without_marks(split(table))
    if not named:
        return None
    head = "".join(f"{word} " for word in named[:-1])
    noun = named[-1]
    stems = [stem[-1] for stem in map(_stem, columns) if stem]
    found = _by_columns(noun, stems) or _by_name(noun)
    words = Words(f"{head}{found.one}", f"{head}{found.several}", found.is_sure)
    return words if len(words.several) <= LONGEST else None


def split(name: str) -> list[str]:
    """The words of a name, in small letters."""
    spaced = re.sub(r"(?<=[^\W\d_A-Z])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.split(r"[\W\d_]+", spaced) if word]


def _by_columns(noun: str, stems: Iterable[str]) -> Words | None:
    for stem in stems:
        if stem == noun and _one_of(noun) == noun:
            return Words(noun, plural(noun), is_sure=True)
        begins = noun[: max(NEAR, len(noun) - NEAR)]
        is_near = stem != noun and abs(len(stem) - len(noun)) <= NEAR and stem.startswith(begins)
        if plural(stem) == noun or is_near:
            return Words(stem, noun, is_sure=True)
    return None


def _by_name(noun: str) -> Words:
    one = _one_of(noun)
    if one != noun:
        return Words(one, noun, is_sure=True)
    return Words(noun, plural(noun), is_sure=False)


def _one_of(noun: str) -> str:
    if noun in ONE_OF:
        return ONE_OF[noun]
    if noun in IRREGULAR or noun in UNCOUNTED or noun.endswith("is"):
        return noun
    for several, one in ENDINGS:
        found = re.sub(f"{several}$", one, noun)
        if found != noun:
            return found
    return noun


def _parts(word: str) -> tuple[str, str]:
    """What a word begins with, and its last part."""
    at = max(word.rfind("_"), word.rfind(" ")) + 1
    return word[:at], word[at:]


def _without_marks(words: list[str]) -> list[str]:
    """Without what says only that it is a view or a table."""
    while len(words) > 1 and words[0] in MARKS:
        words = words[1:]
    while len(words) > 1 and words[-1] in MARKS:
        words = words[:-1]
    return words


def _stem(column: str) -> list[str]:
    """The words of a column without those that say that it is a key."""
    words = split(column)
    while words and words[-1] in OF_A_KEY:
        words = words[:-1]
    return words
