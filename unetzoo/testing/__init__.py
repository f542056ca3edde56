"""Checks of a decoder or an encoder of one's own against the contract, for anybody who registers one.

``check_decoder("fpn")`` and ``check_encoder("strided")`` run the part as the zoo does, on small images, and raise one
error that lists all that is wrong. No test framework is needed; in a test, the call is the whole test.
"""

from unetzoo.testing._decoders import check_decoder
from unetzoo.testing._encoders import check_encoder
from unetzoo.testing._running import ContractError

__all__ = ["ContractError", "check_decoder", "check_encoder"]
