"""What attention modules need, in closed form: Tables 9 to 12 of Shen et al., as printed and as they should read."""

from __future__ import annotations

import ast
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cache, cached_property
from importlib import resources
from typing import Any

FLOAT_BYTES = 4
QUANTITIES = ("memory", "macc")
_SCALES = {"GB": 1e9, "GMACC": 1e9, "TMACC": 1e12}
COUNTINGS = {
    "paper": "Table 9 as printed, its one doubled stroke (bm/ /h) read as one",
    "consistent": "2 a multiply-add everywhere, heads of k/h channels, a feed-forward of 4c hidden channels in full",
}


@dataclass(frozen=True)
class Sizes:
    """What the formulas depend on.

    positions: s, pixels, voxels or tokens.
    channels: c, of the input and the output.
    basis: b, channels of basis and coefficients, or k, of keys and queries; all heads together.
    value: m, channels of values, all heads together, or the inner width of a bottleneck ResBlock. The forms without a
        value bottleneck (FA-dot, CA-dot) have c and do not read it.
    heads: h, of which basis and value are multiples. Only the multi-head forms read it.

    Raises:
        ValueError: a size that is not a positive int, or heads that do not divide basis and value.
    """

    positions: int
    channels: int
    basis: int
    value: int
    heads: int = 1

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a positive int, got {size!r}")
        for name in ("basis", "value"):
            if getattr(self, name) % self.heads:
                raise ValueError(f"{name} must be a multiple of heads={self.heads}, got {getattr(self, name)}")

    def letters(self) -> dict[str, int]:
        """By the letters of the paper; b and k are one number."""
        b = self.basis
        return {"s": self.positions, "c": self.channels, "b": b, "k": b, "m": self.value, "h": self.heads}


@dataclass(frozen=True)
class Complexity:
    """What one forward pass of one input needs.

    memory: floats, each named intermediate once.
    macc: multiplications and additions, of matrix products alone: 2 a multiply-add (the paper's footnote 2).
    """

    memory: int
    macc: int

    @property
    def bytes(self) -> int:
        """Of the memory, in single precision."""
        return FLOAT_BYTES * self.memory


@dataclass(frozen=True)
class Formula:
    """A formula in the paper's notation, "(2b+3c)s+bc", that can be worked out; products have no sign.

    Raises:
        ValueError: a text that is none.
    """

    text: str

    def __post_init__(self) -> None:
        try:
            self.of(Sizes(1, 1, 1, 1))
        except (SyntaxError, KeyError, TypeError) as error:
            raise ValueError(f"text must be a formula of s, c, b, k, m and h, got {self.text!r}") from error

    @cached_property
    def _tree(self) -> ast.expr:
        products = re.sub(r"(?<=[\w)])(?=[a-z(])", "*", self.text)
        return ast.parse(products.replace("^", "**"), mode="eval").body

    def of(self, sizes: Sizes) -> Fraction:
        """Its exact value."""
        return _worked_out(self._tree, sizes.letters())


def _worked_out(node: ast.expr, letters: dict[str, int]) -> Fraction:
    match node:
        case ast.BinOp(left, sign, right):
            return Fraction(_SIGNS[type(sign)](_worked_out(left, letters), _worked_out(right, letters)))
        case ast.Name(name):
            return Fraction(letters[name])
        case ast.Constant(int(number)):
            return Fraction(number)
    raise TypeError(f"node must be a number, a letter or two with a sign between, got {ast.dump(node)}")


_SIGNS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True)
class Entry:
    """A row of a table: floats, and multiplications and additions."""

    memory: Formula
    macc: Formula

    def of(self, sizes: Sizes) -> Complexity:
        """In whole numbers, as every row of Table 9 gives; a fraction is rounded down."""
        return Complexity(math.floor(self.memory.of(sizes)), math.floor(self.macc.of(sizes)))


def _table(text: str) -> dict[str, Entry]:
    """Rows of name, memory and macc."""
    rows = (line.split() for line in text.strip().splitlines())
    return {name: Entry(Formula(memory), Formula(macc)) for name, memory, macc in rows}


_TABLE_9 = _table(
    """
    ResBlock      5cs                       36c^2s
    ResBlock-bot  (4m+3c)s                  (4mc+18m^2)s
    FA-dot        (2b+3c)s+bc               (8bc+2c^2)s
    CA-dot        (2k+3c)s+s^2              (2kc+c^2)s+(2k+2c)s^2
    FA-bot        (2b+2m+2c)s+bm            (4bc+4mc+4bm)s
    CA-bot        (2k+2m+2c)s+s^2           (4kc+4mc)s+(2k+2m)s^2
    FA-multi      (2b+2m+2c)s+bm/h          (4bc+4mc+4bm/h)s
    CA-multi      (2k+2m+2c)s+hs^2          (4kc+4mc)s+(2hk+2m)s^2
    FA-Tfm        (2b+2m+6c)s+bm/h          (4bc+4mc+4bm/h+5c^2)s
    CA-Tfm        (2k+2m+6c)s+hs^2          (4kc+4mc+5c^2)s+(2k+2m)s^2
    """
)

# Only what differs. A feed-forward of 4c hidden channels has these, an output and a residual sum, which the other rows
# count each: 6c beside the 2c of FA-multi, where Table 9 has 4c.
_CORRECTED = _table(
    """
    CA-dot        (2k+3c)s+s^2              (4kc+2c^2)s+(2k+2c)s^2
    CA-multi      (2k+2m+2c)s+hs^2          (4kc+4mc)s+(2k+2m)s^2
    FA-Tfm        (2b+2m+8c)s+bm/h          (4bc+4mc+4bm/h+16c^2)s
    CA-Tfm        (2k+2m+8c)s+hs^2          (4kc+4mc+16c^2)s+(2k+2m)s^2
    """
)

# Name of a module, then a way of counting, one of COUNTINGS.
MODULES: dict[str, dict[str, Entry]] = {
    name: {"paper": entry, "consistent": _CORRECTED.get(name, entry)} for name, entry in _TABLE_9.items()
}

# Tables 10 and 11 as printed, and the part of c that b, k and m are there.
_SIMPLIFIED: dict[int, tuple[int, dict[str, Entry]]] = {
    10: (
        2,
        _table(
            """
            ResBlock      5cs               36c^2s
            ResBlock-bot  5cs               13/2c^2s
            FA-dot        4cs+c^2/2         6c^2s
            CA-dot        4cs+s^2           2c^2s+3cs^2
            FA-bot        4cs+c^2/4         5c^2s
            CA-bot        4cs+s^2           4c^2s+2cs^2
            FA-multi      4cs+c^2/(4h)      (4c^2+c^2/h)s
            CA-multi      4cs+hs^2          4cs+(hc+c)s^2
            """
        ),
    ),
    11: (
        4,
        _table(
            """
            FA-multi      3cs+c^2/(16h)     (2c^2+c^2/(4h))s
            CA-multi      3cs+hs^2          2c^2s+(hc/2+m/2)s^2
            FA-Tfm        7cs+c^2/(16h)     (c^2/(4h)+7c^2)s
            CA-Tfm        7cs+hs^2          7c^2s+cs^2
            """
        ),
    ),
}


@dataclass(frozen=True)
class Simplified:
    """An entry of Table 10 or 11.

    table: 10 or 11.
    quantity: "memory" or "macc".
    printed: the formula there.
    follows: whether it is Table 9's with b = k = m = c/2 or c/4, by each of COUNTINGS, worked out at several sizes.
    """

    table: int
    module: str
    quantity: str
    printed: Formula
    follows: dict[str, bool]


def complexity(module: str, sizes: Sizes, *, counting: str = "consistent") -> Complexity:
    """What a module of Table 9 needs.

    Args:
        module: a key of MODULES.
        sizes: of the input and inside.
        counting: a key of COUNTINGS.

    Raises:
        ValueError: an unknown module or way of counting.
    """
    return _entry(module, counting).of(sizes)


@cache
def simplified(table: int) -> tuple[Simplified, ...]:
    """The entries of Table 10 (b = k = m = c/2) or 11 (c/4), and which of them follow from Table 9.

    Raises:
        ValueError: another table.
    """
    if table not in _SIMPLIFIED:
        raise ValueError(f"table must be 10 or 11, got {table!r}")
    part, rows = _SIMPLIFIED[table]
    sizes = [Sizes(s, c, c // part, c // part, h) for s in (5, 49, 4096) for c in (64, 192) for h in (1, 4, 8)]
    entries = []
    for module, row in rows.items():
        for quantity in QUANTITIES:
            printed: Formula = getattr(row, quantity)
            follows = {}
            for counting, entry in MODULES[module].items():
                formula: Formula = getattr(entry, quantity)
                follows[counting] = all(printed.of(at) == formula.of(at) for at in sizes)
            entries.append(Simplified(table, module, quantity, printed, follows))
    return tuple(entries)


def order_in_positions(module: str, *, counting: str = "consistent") -> tuple[int, int]:
    """Powers of s with which memory and macc grow in the end (Table 12), from what twice as many positions need.

    Raises:
        ValueError: an unknown module or way of counting.
    """
    entry = _entry(module, counting)
    once, twice = (entry.of(Sizes(many, 64, 32, 32, 2)) for many in (2**40, 2**41))
    return round(math.log2(twice.memory / once.memory)), round(math.log2(twice.macc / once.macc))


@cache
def facts() -> dict[str, Any]:
    """What the paper says and where it slips: the committed table `complexity_facts.json`."""
    text = resources.files("halonet.analysis").joinpath("complexity_facts.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def quoted_figures() -> list[dict[str, Any]]:
    """The figures that the paper's text quotes, worked out again.

    Single precision, GB = 1e9 bytes, c = 64 and b = k = 32 where a row says nothing else.

    Returns:
        A row a figure: "figure", "source", "relation" ("over", "under" or "about", to within "tolerance"), "published",
        "unit", "of" and "per" (what is counted, and what it is divided by), "ours" by each of COUNTINGS, "verdict"
        ("holds", "holds by consistent counting" or "NOT MET"), "note", and "otherwise": other readings, each with
        "what" and "ours".
    """
    rows = []
    for fact in facts()["quoted"]:
        row = dict(fact)
        row["ours"] = {counting: _value(row, row["unit"], counting) for counting in COUNTINGS}
        row["verdict"] = _verdict(row)
        row["otherwise"] = [
            {**other, "unit": unit, "ours": _value(other, unit, "paper")}
            for other in row.get("otherwise", [])
            for unit in [other.get("unit", row["unit"])]
        ]
        rows.append(row)
    return rows


def _verdict(row: Mapping[str, Any]) -> str:
    def met(ours: float) -> bool:
        if row["relation"] == "about":
            return abs(ours - row["published"]) <= row["tolerance"]
        return ours > row["published"] if row["relation"] == "over" else ours < row["published"]

    if met(row["ours"]["paper"]):
        return "holds"
    return "holds by consistent counting" if met(row["ours"]["consistent"]) else "NOT MET"


def _value(row: Mapping[str, Any], unit: str, counting: str) -> float:
    """Of a figure in its unit: a count, how many times another it is, or by what share the other is less."""
    kind = unit.partition(" ")[0]
    quantity = "macc" if "MACC" in unit else "memory"
    count = _counted(row["of"], quantity, counting)
    if kind in _SCALES:
        return count * (FLOAT_BYTES if kind == "GB" else 1) / _SCALES[kind]
    other = _counted(row["per"], quantity, counting)
    return count / other if kind == "x" else 100 * (1 - other / count)


def _counted(what: Mapping[str, Any], quantity: str, counting: str) -> float:
    """Of a module, or by a formula that stands in its place."""
    basis = what.get("basis", 32)
    sizes = Sizes(what["positions"], what.get("channels", 64), basis, what.get("value", basis), what.get("heads", 1))
    if "module" in what:
        return float(getattr(complexity(what["module"], sizes, counting=counting), quantity))
    return float(Formula(what[quantity]).of(sizes))


def _entry(module: str, counting: str) -> Entry:
    if module not in MODULES:
        raise ValueError(f"module must be one of {', '.join(MODULES)}, got {module!r}")
    if counting not in COUNTINGS:
        raise ValueError(f"counting must be one of {', '.join(COUNTINGS)}, got {counting!r}")
    return MODULES[module][counting]
