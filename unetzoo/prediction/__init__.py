"""Masks of images: of any size, by tiles, from several views and models, of whole folders."""

from unetzoo.prediction.predictor import Predictor
from unetzoo.prediction.results import Prediction

__all__ = ["Prediction", "Predictor"]
