"""Detection beside the model: answers as COCO's results, and their average precision."""

from halonet.detection.evaluation import Evaluation, evaluate_results, judge_results
from halonet.detection.results import coco_results, gather_results

__all__ = ["Evaluation", "coco_results", "evaluate_results", "gather_results", "judge_results"]
