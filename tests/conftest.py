"""What the tests share."""

from __future__ import annotations

import atexit
import functools
import gc
import gettext
import linecache
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

# Before huggingface_hub is imported: its cache and token of the tests' own, no Hub but the tests', and no Xet, which
# has no fallback for a Hub without it.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="unetzoo_hf_")
_reserved = socket.socket()  # bound and not listening: nobody else is given the port, and connections are refused
_reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
_reserved.bind(("127.0.0.1", 0))
atexit.register(_reserved.close)
HUB_PORT = _reserved.getsockname()[1]
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{HUB_PORT}"
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
for variable in ("HF_TOKEN", "HF_HUB_OFFLINE", "UNETZOO_OFFLINE", "HF_HUB_CACHE"):
    os.environ.pop(variable, None)

from drawn import cut_draws, own_draws  # noqa: E402
from hub_server import HubServer  # noqa: E402
from huggingface_hub import constants  # noqa: E402

import unetzoo  # noqa: E402
from unetzoo import drawing, naming, plugins, zoo  # noqa: E402
from unetzoo.data.annotations import ANNOTATION_FORMATS  # noqa: E402
from unetzoo.decoders import DECODERS  # noqa: E402
from unetzoo.encoders import ENCODERS  # noqa: E402
from unetzoo.losses import LOSSES  # noqa: E402
from unetzoo.nn import convolutions  # noqa: E402

pytest.register_assert_rewrite("trainings")
gc.disable()  # while tests are collected, where all that is made stays: to look through it took a third of the time

ROOT = Path(__file__).parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the other cores have workers of their own
    os.environ["OMP_NUM_THREADS"] = "1"  # also of processes that are started

NAMES = unetzoo.list_models()
PADDED = [name for name in NAMES if name != "unet_valid"]
ALIKE = (
    "resnet34",
    "resnet101",
    "resnet152",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "efficientnet_b3",
    "efficientnet_v2_s",
    "resenc",
    "regnet_y_3_2gf",
    "convnext_small",
)
"""Encoders made of the blocks of others, only more of them, wider or simpler ones: what is added to the zoo is none of
these."""
FAMILIES = [name for name in NAMES if naming.index()[name][1] not in ALIKE]
"""Every decoder on an encoder of every kind of block."""
SMALL = [name for name in FAMILIES if name in PADDED and "resnext" not in name]
ONCE = [name for name in FAMILIES if naming.index()[name][1] in ("plain", "resnet18") or "unetpp_lite" in name]
"""Every decoder on the plain encoder and on ResNet-18, and each other kind of block under one decoder, a cheap one."""


def _links() -> bool:
    """Return whether this user may make symbolic links, which is a right on some systems."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            (Path(folder) / "link").symlink_to("nowhere")
        except (OSError, NotImplementedError):
            return False
    return True


needs_links = pytest.mark.skipif(not _links(), reason="symbolic links cannot be made here")
needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
"""The signal that ends a process at once; where there is no SIGKILL, ``os.kill`` does so whatever the signal."""

PROCESSES = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
"""Forked processes need not import torch. Only for what computes no gradients: autograd refuses to after a fork."""
SPAWNED = multiprocessing.get_context("spawn")
"""For what does."""


def save(array: np.ndarray, path: Path, **options: Any) -> Path:
    """Write an image by Pillow, in a folder that is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def once(*words: str) -> list[str]:
    """Return a command line in which the last of an option that is given twice stands for both, as none may be."""
    found: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--") or not found:
            name = word.partition("=")[0]
            found.pop(name, None)
            found[name] = [word]
        else:
            found[[*found][-1]].append(word)
    return [word for option in found.values() for word in option]


def tried(names: Iterable[str], by_default: Iterable[str] = FAMILIES) -> list[Any]:
    """Return names as parameters of a test, of which ``-m slow`` alone runs those outside ``by_default``."""
    return [name if name in by_default else pytest.param(name, marks=pytest.mark.slow) for name in names]


def flags(name: str) -> dict[str, object]:
    """Return every flag that the name takes, switched on."""
    known = zoo.signature(name)
    wanted = {
        "num_classes": 3,
        "conv_bias": True,
        "dropout": 0.25,
        "deep_supervision": True,
        "classification_guided": True,
        "output": "average",
        "stem_stride": 2,
    }
    return {key: value for key, value in wanted.items() if key in known}


def light(name: str) -> dict[str, object]:
    """Return options that make the network cheap where that changes no code path."""
    pair = naming.meant(name)
    maps = 5 if pair is None else ENCODERS[pair[1]].maps
    widths = (32, 24, 16, 16, 16)[:maps]
    wanted = {"base_channels": 8, "base_features": 8, "branch_channels": 20, "decoder_channels": widths}
    return {key: value for key, value in wanted.items() if key in zoo.signature(name)}


@pytest.fixture
def as_if_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small maps be computed as large ones are, whose inputs of convolutions are made again for backward."""
    monkeypatch.setattr(convolutions, "SMALL", 0)


@pytest.fixture
def shared_data() -> Path:
    """Return the folder of real images beside the checkout; skip where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/data with real images is not there")
    return folder


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Return what is logged, from warnings up."""
    caplog.set_level(logging.WARNING, "unetzoo")
    return caplog


@pytest.fixture
def registries() -> Iterator[None]:
    """Take back what a test registers."""
    kept = [
        (registry, dict(registry._entries))
        for registry in (DECODERS, ENCODERS, naming.PRESETS, LOSSES, ANNOTATION_FORMATS)
    ]
    yield
    for registry, entries in kept:
        registry._entries.clear()
        registry._entries.update(entries)


@pytest.fixture(scope="module")
def no_curves() -> Iterator[None]:
    """Leave out the picture of a run's curves, half of the time of a small run, in tests that say nothing of it."""
    from unetzoo.train import reporting

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reporting.History, "_write_curves", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def encoders_built_once() -> Iterator[None]:
    """Build the zoo's encoders, with which a file of unknown weights is compared, once and not for each file."""
    from unetzoo import pretrained

    built: dict[int, tuple[Any, Any]] = {}
    build = pretrained._unfilled

    def once(spec: Any) -> Any:
        if id(spec) not in built:
            built[id(spec)] = spec, build(spec)  # with the entry, so that no other takes its identity
        return built[id(spec)][1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pretrained, "_unfilled", once)
        yield


def pytest_collection_finish() -> None:
    """Look for garbage again, but no more through the modules and the thousands of tests, which stay."""
    gc.freeze()
    gc.enable()


_looked_through = [0]
"""How often all objects were looked through."""


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Do the same after each file, and where all was looked through: what was imported stays.

    It was a seventh of the time of the tests that export.
    """
    if nextitem is None or nextitem.path != item.path or gc.get_stats()[2]["collections"] != _looked_through[0]:
        gc.collect()
        gc.freeze()
        _looked_through[0] = gc.get_stats()[2]["collections"]


@pytest.fixture(scope="session", autouse=True)
def _disk_is_not_waited_for() -> Iterator[None]:
    """Leave written files to the system, as no test cuts its power; a handle that is closed is still an error."""

    def fsync(handle: Any) -> None:
        os.fstat(handle if isinstance(handle, int) else handle.fileno())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


@pytest.fixture(scope="session", autouse=True)
def _files_that_stay_are_looked_at_once() -> Iterator[None]:
    """Do not look again for translations of argparse's words, and for changes of the source that LightningCLI reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gettext, "find", functools.cache(gettext.find))
        patch.setattr(linecache, "checkcache", lambda filename=None: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _cut_draws() -> Iterator[None]:
    """Build networks in half of the time; what says something of how weights are drawn takes ``torch_s_draws``."""
    with pytest.MonkeyPatch.context() as patch:
        cut_draws(patch)
        yield


@pytest.fixture
def torch_s_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw weights as torch does."""
    own_draws(monkeypatch)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed what is there: without a GPU, torch would write down the stack for the day that there is one."""
    (torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed)(0)


@pytest.fixture(autouse=True)
def _imports_forgotten() -> Iterator[None]:
    """Forget which modules a test's commands imported by name: a process is of one command, and says them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "_NAMED", {*plugins._NAMED})
        yield


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub at which we are logged in as "me", with an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    with HubServer(HUB_PORT) as server:
        yield server


@pytest.fixture(scope="session")
def nuclei(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 15 drawn images of nuclei, of two sizes, and their masks: 12 train, 2 validate, 1 tests."""
    folder = tmp_path_factory.mktemp("nuclei")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for k in range(15):
        image, mask = drawing.draw_nuclei(40 + 8 * (k % 2), 48, seed=k)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"v{k:02}.png")
        Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(folder / "masks" / f"v{k:02}.png")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, by Playwright: skips where one of them is missing."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])  # as root, in CI
        yield browser
        browser.close()


@contextmanager
def never_waits() -> Iterator[None]:
    """Make what waits for a GPU an error, and nothing that follows."""
    with warnings.catch_warnings():  # torch's, that it does not find all
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
