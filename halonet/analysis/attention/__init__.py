"""Where pixels attend: the weights of asked queries in every layer that attends, and what follows from them.

    record = record_attention(model, image)  # one forward pass
    record.layers["stages.3.0.slot"].at([(120, 80)]).weights  # (1, heads, h, w), of this query alone

`mechanisms` is the table of how layers attend, `pictures` draws.
"""

from halonet.analysis.attention.record import AttentionRecord, Frames, LayerRecord, Rows, record_attention
from halonet.analysis.attention.rollout import attention_rollout
from halonet.analysis.attention.statistics import Statistics, even_grid, layer_statistics

__all__ = [
    "AttentionRecord",
    "Frames",
    "LayerRecord",
    "Rows",
    "Statistics",
    "attention_rollout",
    "even_grid",
    "layer_statistics",
    "record_attention",
]
