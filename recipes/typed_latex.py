r"""What is LaTeX as typed in labels, groups, titles and captions: `$...$` and citations; all else in them is text."""

from __future__ import annotations

import contextlib
import itertools
import re
import unicodedata

LATEX = re.compile(
    r"(?P<math>(?<!\\)\$(?=[^\s$])(?:[^$\\]|\\.)*?(?<!\s)\$(?!\d))"
    r"|(?P<cite>~?\\cite[pt]?(?P<notes>(?:\[[^][]*\]){0,2})\{(?P<keys>[\w.:,+/ -]+)\})"
)

SYMBOLS = {
    **{"times": "×", "pm": "±", "mp": "∓", "cdot": "·", "div": "÷", "ast": "*", "star": "⋆", "circ": "∘"},
    **{"bullet": "•", "oplus": "⊕", "otimes": "⊗", "odot": "⊙", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥"},
    **{"ll": "≪", "gg": "≫", "ne": "≠", "neq": "≠", "equiv": "≡", "approx": "≈", "simeq": "≃", "sim": "~"},
    **{"propto": "∝", "perp": "⊥", "parallel": "∥", "mid": "|", "to": "→", "rightarrow": "→", "leftarrow": "←"},
    **{"leftrightarrow": "↔", "Rightarrow": "⇒", "Leftarrow": "⇐", "Leftrightarrow": "⇔", "mapsto": "↦"},
    **{"uparrow": "↑", "downarrow": "↓", "nearrow": "↗", "searrow": "↘", "in": "∈", "notin": "∉", "cap": "∩"},
    **{"cup": "\N{UNION}", "subset": "⊂", "subseteq": "⊆", "supset": "⊃", "supseteq": "⊇", "setminus": "\N{SET MINUS}"},
    **{"emptyset": "∅", "forall": "∀", "exists": "∃", "neg": "¬", "wedge": "∧", "vee": "\N{LOGICAL OR}", "sum": "∑"},
    **{"prod": "∏", "int": "∫", "partial": "∂", "nabla": "∇", "infty": "∞", "surd": "√", "ell": "\N{SCRIPT SMALL L}"},
    **{"dagger": "†", "ddagger": "‡", "langle": "⟨", "rangle": "⟩", "ldots": "…", "dots": "…"},
    **{"cdots": "⋯", "lambda": "λ", "Lambda": "Λ", "varepsilon": "ε", "vartheta": "ϑ", "varphi": "φ"},
}
"""The signs of TeX's own maths commands, Greek letters apart whose command is their Unicode name."""
_PLAIN = {**SYMBOLS, "sqrt": "√", "prime": "\N{PRIME}", "checkmark": "✓", "varnothing": "∅", "quad": " ", "qquad": " "}
_LOOKS = re.compile(
    r"\\(?:math[a-z]+|text[a-z]*|operatorname|boldsymbol|bm|rm|bf|it|sf|tt|hat|widehat|bar|overline|vec|tilde|dot|left|"
    r"right|middle|[bB]igg?[lrm]?|limits|nolimits|displaystyle|textstyle|scriptstyle)(?![A-Za-z]) *"
)
"""Commands that say how something looks, of which nothing is left in plain text."""
_WITHOUT_ARGUMENT = re.compile(
    r"([_^]|\\(?:[dt]?frac|sqrt|hat|bar|vec|tilde|math[a-z]+|text[a-z]*)(?![A-Za-z])) *(?:$|[}_^])"
)


def plain_text(text: str) -> str:
    r"""Write a label or caption for a reader without LaTeX: `$\beta^{2}$ \cite{tang22}` becomes `β^2 [tang22]`."""

    def written(found: re.Match[str]) -> str:
        if not found["cite"]:
            return _plain_math(found[0][1:-1])
        before = text[: found.start()]
        return " " * bool(before and not before[-1].isspace()) + f"[{found['keys']}]"

    return LATEX.sub(written, text)


def _plain_math(math: str) -> str:
    """Write maths as one would type it: Greek letters and signs; an unknown command becomes its name."""

    def sign(found: re.Match[str]) -> str:
        name, blanks = found.groups()
        case = "SMALL" if name.islower() else "CAPITAL"
        with contextlib.suppress(KeyError):
            return _PLAIN.get(name) or unicodedata.lookup(f"GREEK {case} LETTER {name.upper()}")
        return name + blanks

    math = re.sub(r"\\[dt]?frac *\{([^{}]*)\} *\{([^{}]*)\}", r"\1/\2", _LOOKS.sub("", math))
    math = re.sub(r"\\sqrt *\{([^{}]{2,})\}", r"\\sqrt(\1)", math)
    math = re.sub(r"\\([A-Za-z]+)( *)", sign, math)
    return re.sub(r"\\([^A-Za-z])", lambda found: " " if found[1] in ",;:! " else found[1], re.sub("[{}]", "", math))


def latex_fault(text: str) -> str:
    """Say what would stop LaTeX in a label, title or caption, or be printed as typed; empty where nothing does."""
    for found in LATEX.finditer(text):
        typed = found["math"][1:-1] if found["math"] else found["notes"]
        bare = re.sub(r"\\[^A-Za-z]", "", typed)
        depths = list(itertools.accumulate((character == "{") - (character == "}") for character in bare))
        what = "maths" if found["math"] else "citation"
        if any(sign in bare for sign in "%#&") or min(depths, default=0) < 0 or (depths and depths[-1]):
            return f"{found[0]} is no {what} that LaTeX can set: {{ and }} come in pairs, and % # & as \\% \\# \\&"
        if found["math"] and (lacking := _WITHOUT_ARGUMENT.search(bare)):
            return f"{found[0]} is no maths that LaTeX can set: {lacking[1]} has nothing behind it"
    if cite := re.search(r"\\cite\S*", LATEX.sub("", text)):
        return f"{cite[0]} is no citation: \\cite, \\citep or \\citet, up to two [...] and {{KEY}} are legal"
    return ""
