"""Devices: which one to use, how much memory it has left, and the transfer of tensors to it and back."""

from unetzoo.devices.allocator import reuse_memory as reuse_memory
from unetzoo.devices.choosing import device_of as device_of
from unetzoo.devices.memory import free_memory as free_memory, in_memory as in_memory
from unetzoo.devices.threads import warn_of_threads as warn_of_threads
from unetzoo.devices.transfer import Transfer as Transfer, taken as taken
