"""Use your own decoder with every encoder of the zoo: ``python examples/own_decoder.py [NAME]``.

This is a complete decoder after LinkNet (Chaurasia and Culurciello 2017, arXiv 1707.03718), which adds the encoder's
maps where U-Net concatenates them. Once registered, it has names such as linknet_resnet50. See docs/add_a_decoder.md.
"""

import sys

import torch
from torch import nn

import unetzoo
from unetzoo import losses
from unetzoo.drawing import draw_nuclei
from unetzoo.nn.layers import ConvNormAct, initialise
from unetzoo.nn.resampling import resize


@unetzoo.register_decoder("linknet")
class LinkDecoder(unetzoo.Decoder):
    """In each step: convolve to the width of the finer map, up-sample, and add that map."""

    title = "LinkNet"
    paper = "Chaurasia and Culurciello 2017, arXiv 1707.03718"
    summary = "additive skip connections"

    def __init__(self, encoder, style, options, deep_supervision):
        super().__init__(encoder, style, options, deep_supervision)
        widths = list(zip(encoder.channels[1:], encoder.channels, strict=False))  # (coarse, fine) of each step
        self.steps = nn.ModuleList(ConvNormAct(coarse, fine, style) for coarse, fine in widths)
        features = [unetzoo.Feature(*both) for both in zip(encoder.channels, encoder.strides, strict=True)]
        self.features = features[:-1] if deep_supervision else features[:1]
        initialise(self)

    def forward(self, maps, size, deep):
        """Return the sums, the finest first: only that one, or with ``deep`` all of them."""
        sums = [maps[-1]]
        for step, skip in zip(reversed(self.steps), reversed(maps[:-1]), strict=True):
            sums.insert(0, skip + resize(self.run(step, sums[0]), skip.shape[-2:]))
        return sums[:-1] if deep else sums[:1]


if __name__ == "__main__":  # but not if another file imports the decoder
    name = sys.argv[1] if len(sys.argv) > 1 else "linknet_resnet18"
    print(*unetzoo.list_models("linknet*"))
    print(unetzoo.model_info(name).architecture)
    model = unetzoo.create(name, deep_supervision=True)
    criterion = losses.DeepSupervision(losses.build("bce + dice", "binary"))
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    images, masks = zip(*(draw_nuclei(64, 64, seed=k) for k in range(4)), strict=True)
    images, targets = torch.stack(images) / 255, torch.stack(masks).long()
    for step in range(10):
        loss = criterion(model.training_outputs(images), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {loss.item():.4f}")
