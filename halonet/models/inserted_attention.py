"""Attention of the whole map put between the blocks of a network that exists: which, where, and how wide."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from halonet.layers import FactorizedAttention, NonLocal, WholeMapAttention
from halonet.layers.whole_map_attention import FORMS
from halonet.ops.checks import check_choice, check_positive
from halonet.ops.factorized_attention import KINDS

ATTENTIONS: dict[str, type[WholeMapAttention]] = {"factorized": FactorizedAttention, "nonlocal": NonLocal}


@dataclass(frozen=True, kw_only=True)
class InsertedAttention:
    """Options of inserted attention (Shen et al., section 4), the same wherever one configuration puts it.

    attention: "factorized" or "nonlocal".
    attention_form: of Table 8: "dot", "bot", "multi" or "transformer".
    attention_kind: "gaussian", as in all of the paper's experiments, or "dot".
    basis: dimensionality of the basis, or of queries and keys, all heads together (Table 2: 32, 64, 128).
    attention_values: channels of the values; half the map's if None.
    attention_heads: heads of the forms that have them (Table 3: 2, 4, 8).
    """

    attention: str = "factorized"
    attention_form: str = "bot"
    attention_kind: str = "gaussian"
    basis: int = 64
    attention_values: int | None = None
    attention_heads: int = 1

    def check_attention(self) -> None:
        """Raises ValueError for an unknown word or a number out of its range."""
        check_choice("attention", self.attention, tuple(ATTENTIONS))
        check_choice("attention_form", self.attention_form, tuple(FORMS))
        check_choice("attention_kind", self.attention_kind, KINDS)
        check_positive("basis", self.basis)
        check_positive("attention_heads", self.attention_heads)
        if self.attention_values is not None:
            check_positive("attention_values", self.attention_values)

    def make_attention(self, dim: int) -> WholeMapAttention:
        """The layer for maps of `dim` channels."""
        return ATTENTIONS[self.attention](
            dim,
            form=self.attention_form,
            kind=self.attention_kind,
            channels=self.basis,
            value_channels=self.attention_values,
            num_heads=self.attention_heads,
        )


def place_names(value: str | Iterable[str]) -> tuple[str, ...]:
    """Places as a tuple of names: "res3,res4" and ["res3", "res4"] alike."""
    names = value.split(",") if isinstance(value, str) else value
    return tuple(str(name).strip() for name in names if str(name).strip())


def residual_places(names: Iterable[str], depths: tuple[int, ...]) -> list[tuple[int, int]]:
    """(stage from 0, blocks before it) of places by name.

    Args:
        names: "res3" after the last block of the third stage, "res3.2" after its second block, "res_all" after the last
            block of every stage. The paper counts stages from 1 and calls them clusters.
        depths: blocks of each stage.

    Raises:
        ValueError: a name of another kind, a stage or block that there is not, or a place named twice.
    """
    known = f"res1 to res{len(depths)}, res1.1 to res{len(depths)}.{depths[-1]} or res_all"
    places: list[tuple[int, int]] = []
    for name in names:
        if name == "res_all":
            places += [(stage, depth) for stage, depth in enumerate(depths)]
            continue
        match = re.fullmatch(r"res(\d+)(?:\.(\d+))?", name)
        stage = int(match[1]) - 1 if match else -1
        if match is None or not 0 <= stage < len(depths):
            raise ValueError(f"attention_at must name {known}, got {name!r}")
        after = int(match[2]) if match[2] else depths[stage]
        if not 1 <= after <= depths[stage]:
            raise ValueError(f"attention_at: res{stage + 1} has {depths[stage]} blocks, got {name!r}")
        places.append((stage, after))
    if len(set(places)) < len(places):
        raise ValueError(f"attention_at names a place twice: {', '.join(names)}")
    return places
