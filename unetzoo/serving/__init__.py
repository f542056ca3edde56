"""A web page for a model: drop an image, see its mask, move the threshold, download. Needs ``unetzoo[demo]``."""

from unetzoo.serving.answers import Limits
from unetzoo.serving.server import serve

__all__ = ["Limits", "serve"]
