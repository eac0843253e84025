"""Where pixels attend: the weights of asked queries in every layer that attends, and what follows from them.

record = record_attention(model, image)
record.layers["stages.3.0.slot"].at([(120, 80)]).weights  # (1, heads, h, w)
"""

from halonet.analysis.attention.record import AttentionRecord, Frames, LayerRecord, Rows, record_attention

__all__ = ["AttentionRecord", "Frames", "LayerRecord", "Rows", "record_attention"]
