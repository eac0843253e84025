"""Every PSMNet by name, as data (Chang and Chen, arXiv 1803.08669; Shen et al., arXiv 1812.01243). A model is a row."""

from __future__ import annotations

from dataclasses import replace

from halonet.models.psmnet_config import PsmnetConfig

_PSMNET = PsmnetConfig()
_BASIC = replace(_PSMNET, head="basic")
# Learns on a CPU in minutes; not of the papers.
_NANO = PsmnetConfig(
    max_disparity=32, width=16, depths=(1, 2, 1, 1), pools=(16, 8, 4, 2), basis=32, image_size=(64, 128)
)


def _with_attention(name: str, config: PsmnetConfig) -> dict[str, PsmnetConfig]:
    """A row, and the same with either attention."""
    return {
        name: config,
        f"fa_{name}": replace(config, attention="factorized"),
        f"nl_{name}": replace(config, attention="nonlocal"),
    }


PSMNETS: dict[str, PsmnetConfig] = {
    **_with_attention("psmnet", _PSMNET),
    **_with_attention("psmnet_basic", _BASIC),
    "fa_psmnet_dot": replace(_PSMNET, attention="factorized", attention_form="dot"),
    **_with_attention("psmnet_nano", _NANO),
}
