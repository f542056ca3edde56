"""Masks of images of any size, in tiles, from several views and models, and for complete folders."""

from unetzoo.prediction.predictor import Predictor
from unetzoo.prediction.results import Prediction

__all__ = ["Prediction", "Predictor"]
