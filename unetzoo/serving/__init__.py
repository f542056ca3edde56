"""A web page for a model: drop images, see their masks, count objects, download. Needs ``unetzoo[demo]``."""

from unetzoo.serving.limits import Limits
from unetzoo.serving.server import serve

__all__ = ["Limits", "serve"]
