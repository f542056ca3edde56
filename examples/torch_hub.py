"""Use the zoo through torch.hub, without installing it: ``python examples/torch_hub.py MODEL IMAGE MASK``.

From a clone, as here: ``torch.hub.load("path/of/the/clone", NAME, source="local", ...)``. Straight from GitHub:
``torch.hub.load("OWNER/unetzoo", NAME, trust_repo=True, ...)``, or OWNER/unetzoo:TAG for a certain version. NAME is
any name of ``unetzoo list``, with the options of ``unetzoo.create``, or "from_pretrained" for a saved model. In
addition to torch, hubconf.py needs torchvision, safetensors and huggingface_hub.
"""

import sys
from pathlib import Path

import torch

CLONE = Path(__file__).resolve().parents[1]


def main(file: str, image: str, target: str) -> None:
    """Write the mask that the saved model ``file`` predicts for ``image`` to ``target``."""
    fresh = torch.hub.load(str(CLONE), "resunet18", source="local", in_channels=1, num_classes=4)
    print("a new one:", tuple(fresh(torch.rand(1, 1, 50, 70)).shape))

    model = torch.hub.load(str(CLONE), "from_pretrained", file, source="local")
    print("a saved one:", model.config.name, model.config.task, model.config.class_names or "")

    import unetzoo  # torch.hub has made it importable

    result = unetzoo.Predictor(model)(image)
    result.save(target)
    print("mask:", target)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
