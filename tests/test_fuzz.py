"""Inputs that were changed at random, by the thousand: each is read, or refused by an error of ours, soon.

Every case is made from its number alone, by ``random.Random(f"{what} {number}")``; a failure names both, and
``mutant(what, number)`` here gives the input again. The default run is of some 3,000 cases; the longer form goes on
from there, with a quarter of a million others::

    pytest -m slow tests/test_fuzz.py
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import hashlib
import io
import json
import pickle
import random
import re
import struct
import sys
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import within
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import Tensor

import unetzoo
from unetzoo import ModelConfig, SegmentationModel
from unetzoo.errors import ConfigError, UnetzooError, WeightsError
from unetzoo.files.checkpoints import load_state_dict_file
from unetzoo.nn.meta import on_meta
from unetzoo.saving.cards import EarlierCard, ModelCard, read_card, write_card
from unetzoo.saving.records import SavedModel, read_saved


def cases(few: int, many: int) -> pytest.MarkDecorator:
    """Try the first ``few`` cases by default, and the next ``many`` in the longer form."""
    longer = pytest.param(range(few, few + many), marks=pytest.mark.slow)
    return pytest.mark.parametrize("cases", [range(few), longer], ids=lambda cases: f"from {cases.start:,}")


# What is changed


@functools.cache
def small_model(seed: int = 0) -> SegmentationModel:
    torch.manual_seed(seed)
    return unetzoo.create("unetpp", levels=1, base_channels=1, num_classes=2, class_names=("eins", "zwei 模"))


@functools.cache
def saved_model() -> bytes:
    return _through_file("model.safetensors", lambda path: unetzoo.save(small_model(), path))


@functools.cache
def described() -> SavedModel:
    with _scratch() as folder:
        unetzoo.save(small_model(), folder / "model.safetensors")
        return read_saved(folder / "model.safetensors")


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _through_file(name: str, write: Callable[[Path], object]) -> bytes:
    with _scratch() as folder:
        write(folder / name)
        return (folder / name).read_bytes()


@functools.cache
def configs() -> list[dict[str, Any]]:
    """Return records of networks of all kinds."""
    made = [
        unetzoo.create("unet", base_channels=4),
        unetzoo.create("unet3p", base_channels=4, deep_supervision=True, classification_guided=True),
        unetzoo.create("unetpp", base_channels=4, num_classes=3, deep_supervision=True, output="average", dropout=0.5),
        unetzoo.create("unet_valid", base_channels=4, norm="group", class_names=("cell",)),
    ]
    with torch.device("meta"):
        made.append(unetzoo.create("unetpp_resnet18", mean=(0.1, 0.2, 0.3), std=(1, 2.5, 1e-3)))
        made.append(unetzoo.create("resunet50", in_channels=1, num_classes=2, task="multilabel", stem_stride=1))
    return [model.config.to_dict() for model in made]


@functools.cache
def checkpoints() -> list[bytes]:
    """Return what torch.save writes of state dicts, in archives and as it was before."""
    state = {f"layer.{k}.weight": torch.arange(6.0).reshape(2, 3) + k for k in range(3)}
    state["half"], state["counter"] = torch.ones(3, dtype=torch.float16), torch.tensor(5)
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "lr": 0.1}
    found = []
    for content in (state, wrapped, {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]}}):
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=zipped)
            found.append(stream.getvalue())
    return found


@functools.cache
def readmes() -> list[str]:
    saved = described()
    card = ModelCard(
        license="mit",
        training_data="Nuclei -- and cells.",
        metrics={"Dice": 0.91, "IoU": 1},
        evaluation_data="the rest",
        text="My own words.\n\n<!-- mine -->",
    )
    made = write_card(saved, "me/nuclei", card, read_card(None))
    plain = write_card(saved, "nuclei", None, read_card(None))
    front = (
        "---\nlicense: apache-2.0\nlanguage: [en, de]\ntags:\n- a\n- b\ndatasets: {x: 1, y: [2.5, null, ~, yes]}\n"
        "date: 2024-02-29T12:00:00.5+01:00\nbase: &base {k: 0x1F, o: 0o17, m: 1_000, s: 12:30:45}\n"
        "more:\n  <<: *base\n  text: |\n    two\n    lines\n  folded: >-\n    one\n    line\n"
        '"quoted \\u00e9": !!str 5\n---\n# Mine\n\nWords.\n'
    )
    return [made, plain, front, "# Only words\n", "---\n---\n", front + made.partition("---\n\n")[2]]


# How it is changed

NUMBERS = (
    "-1", "0", "-0", "1e999", "-1e999", "1e-999", "NaN", "Infinity", "0.1", "1.0", "4294967296", "9223372036854775807",
    "9223372036854775808", "281474976710656", "9" * 400, "9" * 5000, "1" + "0" * 4299, "00", "0x10", "1_000",
)  # fmt: skip
TOKENS = (
    *NUMBERS, "[[[[", "]]]]", "{{{{", "}}}}", "[" * 3000, '{"a":' * 3000, "null", "true", "false", '""', '"\\ud800"',
    '"\\u0000"', ",", ":", '"', "\\", "\0", "\ufeff", "\n", " ", "é", "模", "\U0001f600", '"dtype"', '"shape"',
    '"data_offsets"', '"__metadata__"', '"F32"', '"F64"', '"I64"', '"BOOL"', '"unetzoo_config"',
    '"unetzoo_header_sha256"', '"unetzoo_data_sha256"', '"format_version":7,', '"format_version":1,', '"x":1,"x":1,',
    '"decoder":"unet",', '"encoder":"resnet18",', "PK\x03\x04", "PK\x05\x06", "data.pkl",
)  # fmt: skip
PICKLE_TOKENS = (
    b"cbuiltins\nbytearray\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n",
    b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nSize\n", b"cbuiltins\nset\n",
    b"ctorch._utils\n_rebuild_sparse_tensor\n", b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n",
    b"ctorch\nfloat32\n", b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
    b"G\x7f\xf0" + bytes(6), b"N",
    b"\x88", b"(", b")", b"]", b"}", b"t", b"R", b"b", b"s", b"u", b"0", b".", b"q\x00", b"h\x00", b"Q", b"\x85",
    b"X\x03\0\0\0abc", b"X\xff\xff\xff\xff", b"e", b"a", b"\x81", b"\x80\x05",
)  # fmt: skip
YAML_TOKENS = (
    "---\n", "\n---\n", "- ", ": ", "? ", "&a ", "*a", "*base", "<<: *base\n", "!!timestamp x", "!!int x", "!!float x",
    "!!bool x", "!!binary x", "!!set ", "!!omap ", "!!python/object:os.system ", "!!python/name:os.system ", "!x ",
    "2020-13-45", "2001-12-14t21:59:43.10-99:99", "0000-00-00", "1:99:99", "0b", "0x", "0o", ".inf", ".nan", "~", "=",
    "| \n", ">-\n", "'", '"', "#", "@", "`", "\t", "\x85", "\u2028", "license: ", "tags: ", "tags: 5\n", "1: 2\n",
    "model-index: ", "eval_results: ",
    "<!-- unetzoo card", "<!-- text of the ModelCard", "<!-- end of the text -->",
    "<!-- end of the unetzoo card -->", " -->", "<!--",
    '{"metrics": {"d": ' + "9" * 400 + '}, "evaluation_data": "x"}', '"metrics"', '"text": 1', '"license": 1',
    '{"weights": ', "\r\n", "\r", "[" * 2000, "{" * 2000, "- " * 2000, "  " * 500,
)  # fmt: skip


class Mutator(random.Random):
    """Changes bytes, text and JSON values, always in the same way for the same seed."""

    def changed(self, content: bytes, tokens: tuple[bytes, ...], most: int = 4) -> bytes:
        """Return ``content`` after one to ``most`` changes; mostly one."""
        for _ in range(self.choice((1, 1, 1, 2, self.randint(1, most)))):
            content = self._change(content, tokens)
        return content

    def _change(self, content: bytes, tokens: tuple[bytes, ...]) -> bytes:
        at = self.randrange(len(content) + 1)
        to = min(len(content), at + int(self.expovariate(1 / 8)) + 1)
        match self.randrange(10):
            case 0 | 1 if at < len(content):
                return content[:at] + bytes([content[at] ^ (1 << self.randrange(8))]) + content[at + 1 :]
            case 2 if at < len(content):
                return content[:at] + self.randbytes(1) + content[at + 1 :]
            case 3:
                return content[:at] + content[to:]
            case 4:
                return content[:at] + self.randbytes(self.randint(1, 9)) + content[at:]
            case 5:
                return content[:at] if self.random() < 0.5 else content[: self.randrange(min(64, len(content) + 1))]
            case 6:  # a piece of itself elsewhere
                start = self.randrange(len(content) + 1)
                return content[:at] + content[start : start + self.randint(1, 64)] + content[at:]
            case 7:
                return content[:at] + self.choice(tokens) + content[to:]
            case 8:
                return content[:at] + self.choice(tokens) + content[at:]
            case _:
                number = list(re.finditer(rb"-?\d+", content))
                if not number:
                    return content + self.choice(tokens)
                found = self.choice(number)
                return content[: found.start()] + self.choice(NUMBERS).encode() + content[found.end() :]

    def value(self, depth: int = 3) -> Any:
        """Return any value of JSON's."""
        match self.randrange(14 if depth else 11):
            case 0:
                return None
            case 1:
                return self.random() < 0.5
            case 2:
                return self.choice((0, 1, 2, 3, -1, 4, 64, 2**20, 2**20 + 1, 2**31, 2**48, 2**53, 2**63, -(2**63)))
            case 3:
                return self.randint(-5, 1025)
            case 4:
                return self.choice((0.0, -0.0, 0.5, 1.0, 1e-320, 1e308, -1.5, 2.0**53, float("inf"), 1e999, 10**400))
            case 5:
                return self.random()
            case 6:
                return self.choice(
                    ("", "batch", "group", "instance", "layer", "unet", "unetpp", "unet3p", "unet_valid")
                )
            case 7:
                return self.choice(
                    ("plain", "resnet18", "binary", "multiclass", "multilabel", "last", "average", "nearest")
                )
            case 8:
                return self.choice(
                    ("F32", "F64", "I64", "U8", "\ud800", "\0", "é模", "a" * 3000, "transpose", "bilinear")
                )
            case 9:
                return []
            case 10:
                return {}
            case 11 | 12:
                return [self.value(depth - 1) for _ in range(self.choice((1, 1, 2, 3, 3, 40)))]
            case _:
                return {str(self.value(0))[:40]: self.value(depth - 1) for _ in range(self.randint(1, 4))}

    def rearranged(self, tree: Any) -> Any:
        """Return a JSON value of which one node, anywhere, is another, or gone, or there twice."""
        tree = json.loads(json.dumps(tree))
        for _ in range(self.choice((1, 1, 1, 2, 3))):
            places = list(_places(tree))
            if not places:
                return self.value()
            parent, key = self.choice(places)
            match self.randrange(8):
                case 0:
                    del parent[key]
                case 1 if isinstance(parent, dict):
                    parent[str(self.value(0))[:60]] = parent.pop(key)
                case 2 if isinstance(parent, list):
                    parent.insert(key, parent[key])
                case 3:
                    other, where = self.choice(places)
                    parent[key], other[where] = other[where], parent[key]
                    if _cyclic(tree):
                        return self.value()
                case 4 if type(parent[key]) in (int, float) and abs(parent[key]) < 10**300:
                    parent[key] += self.choice((-1, 1, 8, -8, 0.5, 2**20))
                case _:
                    parent[key] = self.value()
        return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield parent and key of every node below the root."""
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in items:
        yield tree, key
        yield from _places(value)


def _cyclic(tree: Any) -> bool:
    try:
        json.dumps(tree)
    except (ValueError, RecursionError):
        return True
    return False


def encoded(tokens: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(token.encode() for token in tokens)


def split(content: bytes) -> tuple[bytes, bytes]:
    """Return header and data of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + length], content[8 + length :]


def joined(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def digested(header: bytes, data: bytes) -> bytes:
    """Return the header with digests that fit, where their places are still to be seen."""

    def put(header: bytes, name: bytes, digest: str) -> bytes:
        return re.sub(rb'("%b":\s*")[0-9a-f]{64}"' % name, lambda found: found[1] + digest.encode() + b'"', header)

    header = put(header, b"unetzoo_data_sha256", hashlib.sha256(data).hexdigest())
    header = put(header, b"unetzoo_header_sha256", "0" * 64)
    return put(header, b"unetzoo_header_sha256", hashlib.sha256(header).hexdigest())


# The cases


def whole_file(chance: Mutator) -> bytes:
    return chance.changed(saved_model(), encoded(TOKENS))


def forged_file(chance: Mutator) -> bytes:
    """Return a file whose digests fit: what is behind them is reached."""
    header, data = split(saved_model())
    match chance.randrange(6):
        case 0:
            header = chance.changed(header, encoded(TOKENS))
        case 1:
            data = chance.changed(data, encoded(TOKENS))
        case 2 | 3:
            header = json.dumps(chance.rearranged(json.loads(header)), separators=(",", ":")).encode()
        case _:
            record = json.loads(header)
            metadata = record["__metadata__"]
            config = metadata["unetzoo_config"]
            if chance.random() < 0.5:
                config = json.dumps(chance.rearranged(json.loads(config)))
            else:
                config = chance.changed(config.encode(), encoded(TOKENS)).decode(errors="replace")
            metadata["unetzoo_config"] = config
            header = json.dumps(record, separators=(",", ":")).encode()
    return joined(digested(header, data), data)


def config_text(chance: Mutator) -> bytes:
    text = json.dumps(chance.choice(configs()), indent=chance.choice((None, 2)))
    return chance.changed(text.encode(), encoded(TOKENS))


def config_record(chance: Mutator) -> Any:
    return chance.rearranged(chance.choice(configs()))


def checkpoint(chance: Mutator) -> bytes:
    content = chance.choice(checkpoints())
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return chance.changed(content, (*PICKLE_TOKENS, *encoded(NUMBERS)))
    if chance.random() < 0.3:
        return chance.changed(content, encoded(TOKENS))
    # Inside the archive, which stays whole: so the change is read, and not its checksum alone.
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    name = chance.choice([*records, *[name for name in records if name.endswith("data.pkl")] * 8])
    records[name] = chance.changed(records[name], PICKLE_TOKENS)
    if chance.random() < 0.05:
        del records[name]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, record in records.items():
            archive.writestr(zipfile.ZipInfo(name), record)
    return stream.getvalue()


def readme(chance: Mutator) -> str:
    text = chance.choice(readmes())
    if chance.random() < 0.5:  # where it matters: in the front matter, or in the mark
        start = text.find("<!-- unetzoo card") if chance.random() < 0.5 else 0
        stop = text.find("\n", start) if start > 0 else text.find("\n---", 4)
        if 0 <= start < stop:
            tokens = encoded((*YAML_TOKENS, *NUMBERS))
            changed = chance.changed(text[start:stop].encode(), tokens).decode(errors="replace")
            return text[:start] + changed + text[stop:]
    return chance.changed(text.encode(), encoded((*YAML_TOKENS, *TOKENS))).decode(errors="replace")


CASES: dict[str, Callable[[Mutator], Any]] = {
    function.__name__: function
    for function in (whole_file, forged_file, config_text, config_record, checkpoint, readme)
}


def mutant(what: str, number: int) -> Any:
    """Return the input of a case."""
    return CASES[what](Mutator(f"{what} {number}"))


# What must hold


class Findings:
    """Failures, one of each kind, with the case that shows it."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.found: dict[str, str] = {}
        self.cases = 0
        self.taken = 0

    def run(self, number: int, check: Callable[[Any], object]) -> None:
        """Make a case and check it: ``check`` returns, or raises an error of ours, within seconds."""
        content = mutant(self.what, number)
        self.cases += 1
        try:
            with within():
                check(content)
            self.taken += 1
        except UnetzooError:
            pass
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in frames if f"{Path(unetzoo.__file__).parent}" in frame.filename] or frames
            where = f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"
            self.found.setdefault(
                where, f"{where}: {str(error)[:150]}\n    mutant({self.what!r}, {number}) is {content!r:.200}"
            )

    def check(self) -> None:
        kinds = "\n  ".join(self.found.values())
        assert not self.found, f"{len(self.found)} kinds of failure in {self.cases} cases:\n  {kinds}"


@contextlib.contextmanager
def little_memory(most: float = 300e6) -> Iterator[None]:
    """Fail if the peak of memory grows by more; a limit keeps a single case from taking the machine with it."""
    if sys.platform != "linux":
        yield
        return
    import resource

    def status(name: str) -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

    gc.collect()
    ctypes.CDLL(None).malloc_trim(
        0
    )  # room that other tests have left in the heap would not be counted when taken again
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    before = status("VmRSS")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + (6 << 30), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    grown = status("VmHWM") - before
    assert grown < most, f"memory grew by {grown / 1e6:.0f} MB"


def fuzz(what: str, cases: range, check: Callable[[Any], object]) -> Findings:
    findings = Findings(what)
    with little_memory():
        for number in cases:
            findings.run(number, check)
    return findings


def same(config: ModelConfig) -> None:
    """Whatever is accepted can be written and read again."""
    assert ModelConfig.from_json(config.to_json()) == config
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert config.name in unetzoo.list_models()
    # What numbers and names are for: to normalise with, and to be shown.
    for value in (*(config.mean or ()), *(config.std or ()), config.dropout):
        assert torch.tensor(float(value), dtype=torch.float64).isfinite()
    for label in config.class_names or ():
        assert label.encode().decode() == label


def usable(model: SegmentationModel) -> None:
    same(model.config)
    state = model.state_dict()
    with on_meta():
        wanted = SegmentationModel(model.config).state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in wanted.items()
    }
    assert not any(tensor.is_meta for tensor in state.values())


def fuzz_whole_files(folder: Path, cases: range) -> None:
    path = folder / "model.safetensors"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        with contextlib.suppress(UnetzooError):
            usable(unetzoo.load(path))
        unetzoo.verify(path)
        assert content == saved_model(), "verify takes a changed file for the one that was saved"

    fuzz("whole_file", cases, check).check()


def fuzz_forged_files(folder: Path, cases: range) -> Findings:
    path = folder / "model.safetensors"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        with contextlib.suppress(UnetzooError):
            usable(unetzoo.load(path))
        said = unetzoo.verify(path)
        model = unetzoo.load(path, verify=True)
        assert model.config == said.config
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
        assert str(said)

    findings = fuzz("forged_file", cases, check)
    findings.check()
    return findings


def fuzz_config_texts(cases: range) -> Findings:
    def check(content: bytes) -> None:
        same(ModelConfig.from_json(content.decode(errors="surrogateescape")))

    findings = fuzz("config_text", cases, check)
    findings.check()
    return findings


def fuzz_config_records(cases: range, built_at_least: int) -> None:
    built = 0

    def check(content: Any) -> None:
        nonlocal built
        config = ModelConfig.from_dict(content)
        same(config)
        if built < 10 * built_at_least and findings_taken() % 3 == 0:
            with on_meta():
                model = SegmentationModel(config)
            assert model.head.conv.weight.shape[0] == config.num_classes
            built += 1

    taken = [0]

    def findings_taken() -> int:
        taken[0] += 1
        return taken[0]

    fuzz("config_record", cases, check).check()
    assert built >= built_at_least


def fuzz_checkpoints(folder: Path, cases: range) -> None:
    path = folder / "weights.pth"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        state = load_state_dict_file(path)
        assert isinstance(state, dict)
        for name, tensor in state.items():
            assert isinstance(name, str)
            assert isinstance(tensor, Tensor)
            assert not tensor.is_meta
            # What was taken can be copied, and is no larger than its file.
            assert tensor.clone().numel() * tensor.element_size() <= len(content)

    findings = fuzz("checkpoint", cases, check)
    findings.check()
    assert 0 < findings.taken < findings.cases


def fuzz_readmes(cases: range, written_at_least: int) -> None:
    count = written = 0
    saved = described()

    def check(content: str) -> None:
        nonlocal count, written
        earlier = read_card(content)
        assert isinstance(earlier, EarlierCard)
        count += 1
        if count % 25:
            return
        written += 1
        again = read_card(write_card(saved, "me/nuclei", None, earlier))
        assert again.words == earlier.words
        assert again.card.text == earlier.card.text
        assert again.card.license == earlier.card.license
        assert again.weights == saved.sha256

    fuzz("readme", cases, check).check()
    assert written >= written_at_least


@cases(750, 86_000)
def test_changed_files_are_refused_and_verify_takes_only_what_was_saved(tmp_path: Path, cases: range) -> None:
    fuzz_whole_files(tmp_path, cases)


@cases(300, 22_500)
def test_changed_files_whose_digests_fit_are_read_or_refused(tmp_path: Path, cases: range) -> None:
    findings = fuzz_forged_files(tmp_path, cases)
    assert 0 < findings.taken < findings.cases


@cases(750, 66_000)
def test_changed_configs_in_json_are_read_or_refused(cases: range) -> None:
    findings = fuzz_config_texts(cases)
    assert len(cases) / 200 < findings.taken < findings.cases


@cases(500, 43_500)
def test_rearranged_configs_are_read_and_built_or_refused(cases: range) -> None:
    fuzz_config_records(cases, built_at_least=len(cases) // 135)


@cases(500, 43_500)
def test_changed_checkpoints_are_read_or_refused(tmp_path: Path, cases: range) -> None:
    fuzz_checkpoints(tmp_path, cases)


@cases(300, 32_500)
def test_changed_model_cards_are_read_or_refused(cases: range) -> None:
    fuzz_readmes(cases, written_at_least=len(cases) // 100)


# Any value in any field

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**400)
    | st.floats()
    | st.text(st.characters(codec=None), max_size=20)
    | st.sampled_from(["batch", "binary", "multiclass", "unet", "plain", "resnet18", "last", "nearest"]),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=8,
)
"""Lone surrogates, NaN and infinities among them, as Python's reader of JSON gives them."""


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a record of a network with any values in some fields, and sometimes other fields."""
    record = dict(draw(st.sampled_from(configs())))
    for name in draw(st.lists(st.sampled_from(sorted(record)), min_size=1, max_size=3, unique=True)):
        if name.endswith("_options") and draw(st.booleans()):
            record[name] = {option: draw(ANY_JSON) for option in record[name]}
        else:
            record[name] = draw(ANY_JSON)
    if draw(st.integers(0, 9)) == 0:
        record[draw(st.text(max_size=20))] = draw(ANY_JSON)
    return record


def check_record(record: Any) -> None:
    try:
        with within():
            config = ModelConfig.from_dict(record)
    except ConfigError as error:
        assert str(error)  # noqa: PT017
        assert error.problems  # noqa: PT017
        return
    same(config)
    with on_meta():
        SegmentationModel(config)


def hold(check: Callable[..., None], *values: st.SearchStrategy[Any], examples: int) -> None:
    """Check values that hypothesis draws, always the same ones."""
    chosen = settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    chosen(given(*values)(check))()


def examples(few: int, many: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])


@examples(200, 2000)
def test_any_value_in_any_field_of_a_config_is_taken_and_built_or_refused(examples: int) -> None:
    hold(check_record, records(), examples=examples)


@examples(100, 1000)
def test_any_value_for_a_config_is_refused(examples: int) -> None:
    def check(value: Any) -> None:
        with within(), pytest.raises(ConfigError):
            ModelConfig.from_dict(value)
        text = json.dumps(value)
        with within(), pytest.raises(ConfigError):
            ModelConfig.from_json(text)

    hold(check, ANY_JSON, examples=examples)


@examples(100, 1000)
def test_any_text_for_a_config_is_refused(examples: int) -> None:
    def check(text: str) -> None:
        with within(), pytest.raises(ConfigError):
            ModelConfig.from_json(text)

    anything = st.text(st.characters(codec=None), max_size=200)
    hold(check, anything | st.text(alphabet='{}[]":,0123456789.eE+-truefalsn\\u', max_size=60), examples=examples)


@examples(150, 1500)
def test_any_text_for_a_model_card_is_read_or_refused(examples: int) -> None:
    def check(text: str, framed: bool) -> None:
        with within(), contextlib.suppress(UnetzooError):
            read_card(f"---\n{text}\n---\nwords" if framed else text)

    hold(check, st.text(st.characters(codec=None), max_size=200), st.booleans(), examples=examples)


@examples(100, 1000)
def test_any_bytes_for_a_file_of_weights_are_refused(tmp_path: Path, examples: int) -> None:
    def check(content: bytes, suffix: str) -> None:
        path = tmp_path / f"bytes{suffix}"
        path.write_bytes(content)
        for reader in (unetzoo.load, unetzoo.verify, load_state_dict_file):
            with within(), pytest.raises(WeightsError):
                reader(path)

    hold(check, st.binary(max_size=200), st.sampled_from([".safetensors", ".pth"]), examples=examples)


# What mutation rarely finds

MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 9))


FRONT_MATTERS = {
    "no month 13": "a: 2020-13-45",
    "no such zone": "a: 2001-12-14t21:59:43.10-99:99",
    "no timestamp": "a: !!timestamp x",
    "no whole number": "a: !!int x",
    "no number": "a: !!float x",
    "neither true nor false": "a: !!bool x",
    "5,000 digits": f"a: {'9' * 5000}",
    "5,000 lists": "[" * 5000,
    "5,000 dictionaries": "{" * 5000,
    "5,000 items": "- " * 5000 + "a",
    "merges of merges": MERGES,
    "a name that is a list": "? [a]\n: b",
    "a name that is a dictionary": "? {a: b}\n: c",
    "itself": "a: &a [*a]",
    "an unknown alias": "a: *b",
    "an object of Python's": "a: !!python/object/apply:os.mkdir [ran]",
    "base64 that is none": "a: !!binary é",
}


@pytest.mark.parametrize("title", FRONT_MATTERS)
def test_yaml_that_cannot_be_read_is_one_error_of_ours_soon(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with within(), contextlib.suppress(UnetzooError):
        read_card(f"---\n{FRONT_MATTERS[title]}\n---\nwords")
    assert list(tmp_path.iterdir()) == []


def marks() -> tuple[str, str]:
    """Return what begins and ends the generated part of a card."""
    text = readmes()[1]
    begin = text[text.index("<!-- unetzoo card") : text.index('{"weights"')]
    return begin, text[text.rindex("<!-- end") :].strip()


LONG_READMES: dict[str, Callable[[str, str], str]] = {
    "newlines behind the first line": lambda begin, end: "---" + "\n" * 100_000,
    "spaces behind the first line": lambda begin, end: "---\n" + "--- x\n" * 100_000,
    "beginnings without end": lambda begin, end: (begin + " -->") * 1000,
    "beginnings alone": lambda begin, end: begin * 5000,
    "arrows behind a beginning": lambda begin, end: begin + " -->" * 100_000,
    "ends alone": lambda begin, end: end * 5000,
    "newlines behind the end": lambda begin, end: begin + "{} -->" + end + "\n" * 300_000 + "x",
    "a long line": lambda begin, end: "x" * 3_000_000,
    "many cards": lambda begin, end: (begin + "{} -->" + end) * 2000,
}


@pytest.mark.parametrize("title", LONG_READMES)
def test_a_long_readme_is_read_or_refused_in_time(title: str) -> None:
    with within(), contextlib.suppress(UnetzooError):
        read_card(LONG_READMES[title](*marks()))


FACTS = (
    "{}", "[]", "1", "null", '""', "nonsense", '{"weights": 1}', '{"weights": []}', '{"text": "other words"}',
    '{"license": 5}', '{"metrics": 5}', '{"metrics": {"d": "x"}, "evaluation_data": "y"}', '{"unknown": 1}',
    '{"metrics": {}}',
    '{"metrics": {"d": %s}, "evaluation_data": "y"}' % ("9" * 400), '{"metrics": {"d": 1e999}, "evaluation_data": "y"}',
    '{"metrics": {"d": true}, "evaluation_data": "y"}', "[" * 5000, '{"a":' * 5000, '{"training_data": "\\ud800"}',
    '{"weights": "x", "weights": "x"}',
)  # fmt: skip


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: facts[:40])
def test_whatever_stands_in_the_mark_the_owner_s_words_are_kept(facts: str) -> None:
    begin, end = marks()
    with within():
        earlier = read_card(f"{begin}{facts} -->\n\nours\n{end}\n\nMy own words.\n")
        assert earlier.words == "My own words."
        assert read_card(write_card(described(), "a/b", None, earlier)).words == "My own words."


@pytest.mark.parametrize("value", [0.91, 1, 0, -0.25, -3, 1e-5, 1e300, -1e-300, 10**20])
def test_facts_of_a_card_outlive_the_next_saves(value: float) -> None:
    """Whatever number a metric is: the mark must not be a comment's end, and must stay JSON."""
    card = ModelCard(metrics={"a -- b": value}, evaluation_data="c -- d", training_data="--> -- <!--", text="mine")
    text = write_card(described(), "me/nuclei", card, read_card(None))
    for _ in range(2):
        earlier = read_card(text)
        assert earlier.card == card
        assert earlier.weights == described().sha256
        text = write_card(described(), "me/nuclei", None, earlier)


def test_names_of_classes_that_no_utf8_holds_are_refused_or_written(tmp_path: Path) -> None:
    """As they come from names of files that are no UTF-8."""
    with within(), contextlib.suppress(UnetzooError):
        model = unetzoo.create("unetpp", levels=1, base_channels=1, class_names=("caf\udce9",))
        unetzoo.save_pretrained(model, tmp_path / "folder")
        assert unetzoo.load(tmp_path / "folder", verify=True).config == model.config


FRONTS = (
    "1: 2", "null: 2", "2024-01-01: x", "tags: 5", "tags: x", "tags: [[1], {a: b}]", "tags: {a: b}", "eval_results: 5",
    "eval_results: []", "model-index: 5", "model-index: []", "model_name: 5", "language: {a: b}", "license: [1]",
    "license: ''", "base_model: 5", "metrics: 5", "library_name: other", "pipeline_tag: 5", "self: 5",
    "ignore_metadata_errors: true", "datasets: [[]]", "text: \"\\0\"", "a: !!binary aGk=", "a: !!set {b, c}",
)  # fmt: skip


@pytest.mark.parametrize("front", FRONTS)
def test_over_any_front_matter_that_was_read_a_card_can_be_written(front: str) -> None:
    earlier = read_card(f"---\n{front}\n---\n\nMy own words.\n")
    with within(), contextlib.suppress(UnetzooError):
        text = write_card(described(), "me/nuclei", None, earlier)
        assert read_card(text).words == "My own words."
        assert read_card(text).front["library_name"] == "unetzoo"


def test_a_mark_that_was_left_alone_does_not_keep_a_card_from_being_written() -> None:
    """Somebody deleted one of the two: their words stay, and the error, if there is one, says what to fix."""
    begin, end = marks()
    for text in (f"My own words. {end}", f"{begin}{{}} -->\n\nMy own words."):
        try:
            earlier = read_card(text)
        except WeightsError as error:
            assert "README" in str(error)  # noqa: PT017
            continue
        assert "My own words." in earlier.words


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_tensors_are_refused(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "plain.pth"
    for content in ({"x": torch.zeros(3)}, {"x": [1.0]}, {}):
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        with within(), pytest.raises(WeightsError):
            load_state_dict_file(path)


def test_the_cases_are_the_same_each_time_and_differ_from_one_another() -> None:
    for what in CASES:
        first = [repr(mutant(what, number)) for number in range(200)]
        assert first == [repr(mutant(what, number)) for number in range(200)]
        assert len(set(first)) > 150, what


def test_a_mutant_that_would_be_taken_is_noticed() -> None:
    """The checks are no stubs: a reader that raises anything else, hangs, or takes everything is found out."""

    def broken(content: Any) -> None:
        raise KeyError("x")

    findings = Findings("config_text")
    findings.run(3, broken)
    with pytest.raises(AssertionError, match=r"KeyError at .*\n.*mutant\('config_text', 3\)"):
        findings.check()
    with pytest.raises(AssertionError, match="memory grew"), little_memory(50e6):
        bytearray(200_000_000)
