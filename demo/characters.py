"""What Python knows of every named Unicode character, as records of a store."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any, NamedTuple

CATEGORIES = {
    "Lu": "upper-case letters",
    "Ll": "lower-case letters",
    "Lt": "title-case letters",
    "Lm": "modifier letters",
    "Lo": "other letters",
    "Mn": "non-spacing marks",
    "Mc": "spacing marks",
    "Me": "enclosing marks",
    "Nd": "decimal digits",
    "Nl": "letter numbers",
    "No": "other numbers",
    "Pc": "connectors",
    "Pd": "dashes",
    "Ps": "opening brackets",
    "Pe": "closing brackets",
    "Pi": "opening quotes",
    "Pf": "closing quotes",
    "Po": "other punctuation",
    "Sm": "mathematical signs",
    "Sc": "currency signs",
    "Sk": "modifier signs",
    "So": "other signs",
    "Zs": "spaces",
    "Zl": "line separators",
    "Zp": "paragraph separators",
    "Cf": "format characters",
}


class Character(NamedTuple):
    """One named character."""

    code: int
    name: str

    @property
    def facts(self) -> dict[str, Any]:
        """The value that is stored; what a character does not have is left out."""
        text = chr(self.code)
        facts = {
            "name": self.name,
            "category": self.category,
            "bidirectional": unicodedata.bidirectional(text),
            "decomposition": unicodedata.decomposition(text),
            "numeric": unicodedata.numeric(text, None),
            "mirrored": bool(unicodedata.mirrored(text)),
        }
        return {
            fact: value for fact, value in facts.items() if value not in ("", None) and value is not False
        }

    @property
    def category(self) -> str:
        return unicodedata.category(chr(self.code))

    @property
    def words(self) -> list[str]:
        """The words of its name; none where the name only spells the code, or a syllable."""
        if self.name.endswith(f"{self.code:X}") or self.name.startswith("HANGUL SYLLABLE"):
            return []
        return sorted(set(self.name.split()))


def named() -> list[Character]:
    """Every character that has a name, by code."""
    names = ((code, unicodedata.name(chr(code), "")) for code in range(sys.maxunicode + 1))
    return [Character(code, name) for code, name in names if name]
