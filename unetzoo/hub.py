"""The public door to the Hugging Face Hub: models pulled from it, and pushed to it."""

from unetzoo.saving.publishing import (
    PushedModel as PushedModel,
    push_to_hub as push_to_hub,
    save_pretrained as save_pretrained,
)
from unetzoo.saving.pulling import pull_from_hub as pull_from_hub
from unetzoo.saving.sources import from_pretrained as from_pretrained
