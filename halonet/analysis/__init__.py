"""What a model is made of and what it does: sizes, costs, attention maps, pictures."""

from halonet.analysis.cost import CONVENTIONS, ModelCost, count_costs
from halonet.analysis.summary import ModelSummary, summary

__all__ = ["CONVENTIONS", "ModelCost", "ModelSummary", "count_costs", "summary"]
