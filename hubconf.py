"""Entry points of torch.hub: every name of the zoo, from its registry."""

dependencies = ["torch", "torchvision", "huggingface_hub", "safetensors"]

import unetzoo.information  # noqa: E402
from unetzoo.hub import from_pretrained  # noqa: E402, F401

globals().update(unetzoo.information.hub_entries())
