"""The public functions for the Hugging Face Hub, which pull models from it and push models to it."""

from unetzoo.saving.publishing import (
    PushedModel as PushedModel,
    push_to_hub as push_to_hub,
    save_pretrained as save_pretrained,
)
from unetzoo.saving.pulling import pull_from_hub as pull_from_hub
from unetzoo.saving.sources import from_pretrained as from_pretrained
