"""Checks of your own part against its contract, for anybody who registers one.

``check_decoder("fpn")``, ``check_encoder("strided")``, ``check_loss("edges")`` and
``check_annotation_format("outlines", files=["a.cells"])`` run the part as the package does, on small images, and raise
one error that lists all that is wrong. No test framework is needed; in a test, the call is the whole test.
"""

from unetzoo.testing._annotations import check_annotation_format
from unetzoo.testing._decoders import check_decoder
from unetzoo.testing._encoders import check_encoder
from unetzoo.testing._losses import check_loss
from unetzoo.testing._running import ContractError

__all__ = ["ContractError", "check_annotation_format", "check_decoder", "check_encoder", "check_loss"]
