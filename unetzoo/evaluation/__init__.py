"""Evaluates a model on images with ground truth: scores, and the best thresholds."""

from unetzoo.evaluation.as_trained import settings_of_run as settings_of_run
from unetzoo.evaluation.calibrating import Calibration as Calibration, calibrate as calibrate
from unetzoo.evaluation.evaluating import Evaluation as Evaluation, evaluate as evaluate
