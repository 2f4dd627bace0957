#!/usr/bin/env python3
"""Writes native/text/unicode_tables.inl: what the reference tokenizer (Rust `tokenizers`, any 0.2x) does to every single code point.

    pip install tokenizers
    python scripts/unicode_tables.py > native/text/unicode_tables.inl

Each step of BertNormalizer is asked about each code point by itself, and BertPreTokenizer about each code point between two letters. The tables are
the reference's, whatever version of Unicode it and a JavaScript engine were built with.
"""
import unicodedata

import tokenizers
from tokenizers.normalizers import NFD, BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

OFF = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)
clean, han, strip, lower = (BertNormalizer(**{**OFF, name: True}) for name in OFF)
split = BertPreTokenizer()
decompose = NFD()
HANGUL = range(0xAC00, 0xD7A4)


def ranges(points):
    found = []
    for point in points:
        if found and found[-1][1] == point - 1:
            found[-1][1] = point
        else:
            found.append([point, point])
    return found


def jamo(point):
    s = point - 0xAC00
    tail = s % 28
    return chr(0x1100 + s // 588) + chr(0x1161 + s % 588 // 28) + (chr(0x11A7 + tail) if tail else "")


def moves(c):
    """Whether the reference's canonical ordering moves it: before a mark of class 240, behind one of class 1."""
    return decompose.normalize_str(f"a\u0345{c}") != f"a\u0345{c}" or decompose.normalize_str(f"a{c}\u0334") != f"a{c}\u0334"


def table(name, comment, numbers):
    print(f"\n// {comment}\nconstexpr uint32_t {name}[] = {{")
    line = " "
    for number in numbers:
        text = f" {number:#x}," if number > 9 else f" {number},"
        if len(line) + len(text) > 140:
            print(line)
            line = " "
        line += text
    print(f"{line}\n}};")


removed, spaces, ideographs, marks, ordered, mapped, lowered, punctuation, white = [], [], [], [], [], [], [], [], []
for point in range(0x110000):
    if 0xD800 <= point <= 0xDFFF:
        continue
    c = chr(point)
    cleaned = clean.normalize_str(c)
    if cleaned == "":
        removed.append(point)
    elif cleaned != c:
        assert cleaned == " "
        spaces.append(point)
    padded = han.normalize_str(c)
    if padded != c:
        assert padded == f" {c} "
        ideographs.append(point)
    bare = strip.normalize_str(c)
    if point in HANGUL:
        assert bare == jamo(point)
    elif bare == "":
        marks.append(point)
    elif bare != c:
        mapped += [point, len(bare), *map(ord, bare)]
    if bare != "" and moves(c):
        ordered += [point, unicodedata.combining(c)]
    small = lower.normalize_str(c)
    if small != c:
        lowered += [point, len(small), *map(ord, small)]
    words = [word for word, _ in split.pre_tokenize_str(f"a{c}b")]
    if words == ["a", c, "b"]:
        punctuation.append(point)
    elif words == ["a", "b"]:
        white.append(point)
    else:
        assert words == [f"a{c}b"], (hex(point), words)


def flat(points):
    return [number for pair in ranges(points) for number in pair]


print(f"// Made by scripts/unicode_tables.py from tokenizers {tokenizers.__version__}. Ranges are (first, last); maps are (from, length, to...).")
table("kRemoved", "Dropped by clean_text.", flat(removed))
table("kSpaces", "Made a space by clean_text.", flat(spaces))
table("kIdeographs", "Set off by handle_chinese_chars.", flat(ideographs))
table("kMarks", "Dropped by strip_accents.", flat(marks))
table("kOrdered", "Kept by strip_accents, and moved by canonical ordering among their like: (code point, combining class).", ordered)
table("kDecomposed", "Canonical decomposition without its marks (strip_accents); Hangul syllables, which are computed, aside.", mapped)
table("kLowered", "Lower case.", lowered)
table("kPunctuation", "A word of its own (pre-tokenizer).", flat(punctuation))
table("kWhite", "Between words (pre-tokenizer).", flat(white))
