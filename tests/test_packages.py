"""Packages of BioImage.IO: the zip file read plainly, its program against ``Predictor``, and the way back.

What bioimageio.core says to them is in ``tests/test_bioimageio.py``, which needs the extra of that name.
"""

from __future__ import annotations

import copy
import hashlib
import io
import pickle
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

import unetzoo
from unetzoo import ConfigError, DamagedError, InputError, UnetzooError, WeightsError
from unetzoo.cli import main
from unetzoo.exporting import About, comparing, export, package, request, writing

ABOUT = About(authors=["Ada Lovelace"], license="cc-by-4.0", citations=["Lovelace 1843, doi 10.1000/xyz-1."])
PROGRAM = "weights.pt"
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")  # deprecated, and what the programs elsewhere take


def members_of(package: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def described(members: Mapping[str, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(members["rdf.yaml"])
    return found


def consumed(package: bytes) -> Callable[[Tensor], Tensor]:
    """Return what does what a description says to whole images, (N, C, H, W) pixels, written with NumPy."""
    members = members_of(package)
    steps = described(members)["inputs"][0]["preprocessing"]
    module = torch.jit.load(io.BytesIO(members[PROGRAM]))

    def run(stored: Tensor) -> Tensor:
        pixels = stored.numpy().astype(np.float64)
        for step in steps:
            if step["id"] == "zero_mean_unit_variance":
                assert step["kwargs"]["axes"] == ["y", "x"]
                mean, std = pixels.mean((2, 3), keepdims=True), pixels.std((2, 3), keepdims=True)
                pixels = (pixels - mean) / (std + step["kwargs"]["eps"])
            else:
                pixels = pixels.astype(step["kwargs"]["dtype"])
        with torch.no_grad():
            found: Tensor = module(torch.from_numpy(pixels))
        return found

    return run


@pytest.fixture(autouse=True)
def _without_bioimageio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run packages by what stands in them, where bioimageio.core would."""

    def tested(file: bytes, asked: request.Request) -> Callable[[Tensor], Tensor]:
        run = consumed(file)
        one = asked.outputs == "mask" and asked.config.task != "multilabel"
        return lambda stored: run(stored)[:, 0] if one else run(stored)

    monkeypatch.setattr(comparing, "TIMED", 65)
    monkeypatch.setattr(request, "_machine_problems", lambda form, size: iter(()))
    monkeypatch.setattr(writing, "tested", tested)
    monkeypatch.setattr("unetzoo.cli.exporting.check_installed", lambda needs: None)


def build(name: str = "unetpp", **options: Any) -> unetzoo.SegmentationModel:
    torch.manual_seed(0)
    small = {"base_channels": 2} if name == "unet_valid" else {"base_channels": 4, "levels": 2}
    model = unetzoo.create(name, **{**small, **options})
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.3, 0.9)
    return model


_ONCE: list[bytes] = []


@pytest.fixture(name="written")
def _written(tmp_path: Path) -> Path:
    path = tmp_path / "cells.zip"
    if not _ONCE:
        export(build(class_names=("cell",)), path, about=ABOUT)
        _ONCE.append(path.read_bytes())
    path.write_bytes(_ONCE[0])
    return path


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "binary": ({}, {}),
    "grey, mask": ({"in_channels": 1}, {"outputs": "mask"}),
    "multiclass, 16 bits": ({"num_classes": 3, "task": "multiclass", "in_channels": 2}, {"inputs": "uint16"}),
    "multiclass, mask": ({"num_classes": 3, "task": "multiclass"}, {"outputs": "mask"}),
    "multilabel, mask, 16 bits": (
        {"num_classes": 2, "task": "multilabel", "mean": (0.2,) * 3, "std": (0.3,) * 3},
        {"outputs": "mask", "inputs": "uint16"},
    ),
    "instances": ({"task": "instances"}, {}),
    "each image by itself, 16 bits": ({"in_channels": 2, "normalisation": "image"}, {"inputs": "uint16"}),
    "unpadded": ({"name": "unet_valid"}, {}),
}
SIZES = ((64, 48), (67, 91), (5, 130), (1, 3))


QUICK = ("multiclass, 16 bits", "multilabel, mask, 16 bits", "each image by itself, 16 bits")


@pytest.mark.parametrize(
    "title", [title if title in QUICK else pytest.param(title, marks=pytest.mark.slow) for title in CASES]
)
def test_the_program_answers_as_a_predictor_does(title: str, tmp_path: Path) -> None:
    options, how = CASES[title]
    model = build(**options)
    export(model, tmp_path / "model.zip", about=ABOUT, **how)
    run = consumed((tmp_path / "model.zip").read_bytes())
    predictor = unetzoo.Predictor(model, tile=None)
    dtype = np.uint16 if how.get("inputs") == "uint16" else np.uint8
    for height, width in SIZES:
        shape = (height, width, model.config.in_channels)
        image = np.random.default_rng(height).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
        expected = predictor(image)
        found = run(torch.from_numpy(image.astype(np.int32)).permute(2, 0, 1)[None])[0]
        if how.get("outputs") == "mask":
            mask = torch.as_tensor(expected.mask).long()
            wanted = mask if model.config.task == "multilabel" else mask[None]
            assert found.dtype == torch.uint8
            assert found.shape == wanted.shape
            assert bool((found.long() == (wanted if model.config.task == "multiclass" else (wanted > 0).long())).all())
        else:
            assert found.dtype == torch.float32
            edges = [] if expected.edges is None else [expected.edges[None]]
            torch.testing.assert_close(found, torch.cat([expected.probabilities, *edges]), rtol=0, atol=1e-5)


def test_what_the_package_says(written: Path) -> None:
    members = members_of(written.read_bytes())
    said = described(members)
    assert set(members) >= {"rdf.yaml", PROGRAM, "model.safetensors", "README.md", "cover.png"}
    assert (said["type"], said["format_version"][:3], said["license"]) == ("model", "0.5", "CC-BY-4.0")
    assert said["authors"] == [{"name": "Ada Lovelace"}]
    assert [entry["doi"] for entry in said["cite"]] == ["10.1000/xyz-1", "10.48550/arXiv.1807.10165"]
    files = [*said["attachments"], said["weights"]["torchscript"]]
    files += [said[side][0]["test_tensor"] for side in ("inputs", "outputs")]
    for file in files:
        assert hashlib.sha256(members[file["source"]]).hexdigest() == file["sha256"]
    assert b"# Validation" in members["README.md"]
    cover = Image.open(io.BytesIO(members["cover.png"]))
    assert cover.width == 2 * cover.height
    assert len(members["cover.png"]) < 500_000


def test_the_ports_fit_the_tensors(written: Path) -> None:
    members = members_of(written.read_bytes())
    (taken,), (given,) = (described(members)[side] for side in ("inputs", "outputs"))
    image, found = (np.load(io.BytesIO(members[name])) for name in ("test_input.npy", "test_output.npy"))
    assert image.dtype == found.dtype == np.float32
    assert taken["preprocessing"][-1] == {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}
    assert [axis.get("id", axis["type"]) for axis in taken["axes"]] == ["batch", "channel", "y", "x"]
    assert given["axes"][1]["channel_names"] == ["cell"]
    for place in (2, 3):
        size, halo = taken["axes"][place]["size"], given["axes"][place]["halo"]
        assert given["axes"][place]["size"] == {"tensor_id": taken["id"], "axis_id": taken["axes"][place]["id"]}
        assert size["min"] > 2 * halo
        assert (image.shape[place] - size["min"]) % size["step"] == 0
        assert image.shape[place] == found.shape[place] >= 256
    # By the stride of the network, so that tiles begin where its poolings do.
    assert taken["axes"][2]["size"]["step"] == 4


def test_tiles_of_the_stated_sizes_say_what_the_whole_image_says(written: Path) -> None:
    """Cut by the description alone: what a program does that overlaps tiles by the halo, and crops it."""
    package = written.read_bytes()
    (taken,), (given,) = (described(members_of(package))[side] for side in ("inputs", "outputs"))
    side, halo = taken["axes"][2]["size"]["min"] + taken["axes"][2]["size"]["step"], given["axes"][2]["halo"]
    inner, run = side - 2 * halo, consumed(package)
    image = torch.randint(0, 256, (1, 3, 2 * halo + 3 * inner, side), generator=torch.Generator().manual_seed(0))
    whole = run(image)
    for k in range(3):
        tile = run(image[:, :, k * inner : k * inner + side])[:, :, halo:-halo]
        torch.testing.assert_close(tile, whole[:, :, halo + k * inner : halo + (k + 1) * inner], rtol=0, atol=2e-6)


def test_no_folder_of_this_machine_is_named(written: Path) -> None:
    members = members_of(written.read_bytes())
    inside = members_of(members[PROGRAM])
    for name, content in {**members, **inside}.items():
        assert str(Path(unetzoo.__file__).parent).encode() not in content, name
        assert b"site-packages" not in content, name


def test_what_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    model = build()
    with pytest.raises(ConfigError, match=r"names its authors.*\n.*states its licence"):
        export(model, path)
    with pytest.raises(ConfigError, match="one network, and 2 are given"):
        export([model, copy.deepcopy(model)], path, about=ABOUT)
    with pytest.raises(ConfigError, match="give the model, its name or its file"):
        export(unetzoo.optimize(model), path, about=ABOUT)
    with pytest.raises(ConfigError, match="says itself which sizes it takes"):
        export(model, path, about=ABOUT, size=(64, 64))
    with pytest.raises(ConfigError, match="'uint8', 'uint16' or 'int16' says what white is"):
        export(model, path, about=ABOUT, inputs="normalised")
    with pytest.raises(ConfigError, match=r"resized by 0\.5"):
        export(build(resize=0.5), path, about=ABOUT)
    with pytest.raises(ConfigError, match=r"no DOI and no link.*"):
        About(citations=["Lovelace 1843"])
    with pytest.raises(ConfigError, match="a list of texts"):
        About(authors="Ada Lovelace")
    assert not list(tmp_path.iterdir())


def test_what_fails_its_test_leaves_the_older_file(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written.read_bytes()

    def failing(file: bytes, asked: request.Request) -> Any:
        raise UnetzooError("the test says 'valid-format'")

    monkeypatch.setattr(writing, "tested", failing)
    with pytest.raises(UnetzooError, match="valid-format"):
        export(build(), written, about=ABOUT)
    assert written.read_bytes() == before
    assert [path.name for path in written.parent.iterdir()] == ["cells.zip"]


def test_the_sample_is_the_first_on_which_something_is_found(tmp_path: Path) -> None:
    """The specification takes no test whose output is nothing; of a mask that is the same as an empty one."""
    model = build(in_channels=1)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()  # logits of 0 are no object
    with pytest.raises(InputError, match="finds nothing on the sample"):
        export(model, tmp_path / "cells.zip", about=ABOUT, outputs="mask")
    assert not list(tmp_path.iterdir())
    asked, _ = request.check(
        [model], tmp_path / "x.zip", inputs=None, outputs=None, precision="float32", size=None, images=None, about=ABOUT
    )
    dark, bright = (torch.full((1, 8, 8), value, dtype=torch.uint8) for value in (0, 255))
    image, output = package._sample([dark, bright], lambda shown: (shown > 9).float(), asked)
    assert torch.equal(image, bright)
    assert float(output.min()) == 1


def test_the_licence_comes_from_the_card_beside_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    unetzoo.save_pretrained(build(), folder, card=unetzoo.ModelCard(license="apache-2.0", text="Of cells."))
    for given, expected in ((None, "Apache-2.0"), ("mit", "MIT")):
        about, card = writing._told(folder, "cells.zip", About(authors=["Ada"], license=given))
        assert (about.license, about.authors) == (expected, ["Ada"])
        assert "Of cells." in card
        assert not card.startswith("---")
    assert "licence of this package is MIT, as it was given; the model card says Apache-2.0" in card  # the last one's
    assert "as it was given" not in writing._told(folder, "cells.zip", About(license="apache-2.0"))[1]
    assert "the model card says MIT" in writing._told("vessels", "it.zip", About(license="CC-BY-4.0"))[1]
    for one in ("vessels", ["vessels"]):
        assert writing._told(one, "vessels.zip", None)[0].license == "MIT"
    assert writing._told(folder, "cells.onnx", None) == (About(), "")


def test_what_only_packages_say_is_refused_of_other_files(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--author", "Ada", "--license", "mit", "--cite", "x, https://example.org/y"]
    assert main(["export", "vessels", "vessels.onnx", *words]) == 2
    said = capsys.readouterr().err
    for part in ("--author Ada", "--license MIT", "--cite 'x, https://example.org/y'"):
        assert f"- {part} goes with a package, .zip: leave it out" in said
    with pytest.raises(ConfigError, match=r"name='Retinas' goes with a package"):
        export("vessels", "vessels.pt2", about=About(name="Retinas"))


def test_the_command_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cells.safetensors"
    unetzoo.save(build(class_names=("cell",)), path)
    out = tmp_path / "cells.zip"
    assert main(["export", str(path), str(out)]) == 2
    assert "--author 'Ada Lovelace'" in capsys.readouterr().err
    words = ["--author", "Ada", "--author", "Charles", "--license", "mit", "--cite", "x, https://example.org/y"]
    assert main(["export", str(path), str(out), *words]) == 0
    said = described(members_of(out.read_bytes()))
    assert [author["name"] for author in said["authors"]] == ["Ada", "Charles"]
    assert said["license"] == "MIT"
    assert said["cite"][0]["url"] == "https://example.org/y"


# And back


def test_the_way_back(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build(class_names=("cell",))
    back = unetzoo.from_bioimageio(written)
    assert back.config == model.config
    assert not back.training
    for (name, tensor), other in zip(model.state_dict().items(), back.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
    image = np.random.default_rng(0).integers(0, 256, (61, 70, 3), np.uint8)
    expected = unetzoo.Predictor(model)(image).probabilities
    assert torch.equal(torch.as_tensor(unetzoo.Predictor(written)(image).probabilities), torch.as_tensor(expected))
    assert unetzoo.from_bioimageio(written, num_classes=2, task="multiclass").config.num_classes == 2
    assert unetzoo.verify(written).config == model.config
    assert main(["info", str(written)]) == 0
    assert "saved by unetzoo" in capsys.readouterr().out
    with zipfile.ZipFile(written) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert unetzoo.load(tmp_path / "unpacked").config == model.config
    with pytest.raises(ConfigError, match="unknown option 'clases'"):
        unetzoo.from_bioimageio(written, clases=2)


def rewritten(path: Path, *, packed: bool = False, **changed: bytes | None) -> Path:
    """Write a package anew, with other bytes for some members, or without them: "rdf_yaml" is "rdf.yaml"."""
    members: dict[str, bytes | None] = dict(members_of(path.read_bytes()))
    names = {name.replace(".", "_"): name for name in members}
    members |= {names[key]: content for key, content in changed.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)
    return path


class _Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was opened",))


def test_no_program_in_it_is_opened(written: Path) -> None:
    rewritten(written, weights_pt=pickle.dumps(_Bomb()), README_md=None, packed=True)
    assert unetzoo.from_bioimageio(written).config.class_names == ("cell",)


def test_what_was_changed_is_refused(written: Path) -> None:
    weights = bytearray(members_of(written.read_bytes())["model.safetensors"])
    weights[-5] ^= 1
    with pytest.raises(DamagedError, match="was changed after it was written"):
        unetzoo.from_bioimageio(rewritten(written, model_safetensors=bytes(weights)))
    with pytest.raises(DamagedError, match=r"lacks 'model\.safetensors'"):
        unetzoo.from_bioimageio(rewritten(written, model_safetensors=None))


def test_a_flipped_bit_and_a_cut_are_found(written: Path) -> None:
    whole = written.read_bytes()
    place = whole.index(members_of(whole)["model.safetensors"]) + 5000
    written.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(DamagedError):
        unetzoo.from_bioimageio(written)
    written.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="cannot be read as a zip archive"):
        unetzoo.from_bioimageio(written)


def test_a_bomb_is_not_unpacked(written: Path) -> None:
    bomb = bytes(200_000_000)
    rdf = described(members_of(written.read_bytes()))
    rdf["attachments"][0]["sha256"] = hashlib.sha256(bomb).hexdigest()
    rewritten(written, packed=True, rdf_yaml=yaml.safe_dump(rdf).encode(), model_safetensors=bomb)
    with pytest.raises(WeightsError, match=r"would unpack to 200,000,000 bytes"):
        unetzoo.from_bioimageio(written)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../out.txt", "leads out of it"),
        ("/etc/out.txt", "leads out of it"),
        ("a\\..\\out.txt", "leads out of it"),
        ("C:out.txt", "leads out of it"),
        ("MODEL.safetensors", "is in it twice"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(name: str, said: str, written: Path) -> None:
    with zipfile.ZipFile(written, "a") as archive:
        archive.writestr(zipfile.ZipInfo("x"), b"")
        archive.infolist()[-1].filename = name
    with pytest.raises(WeightsError, match=said):
        unetzoo.from_bioimageio(written)


def test_links_and_crowds_are_refused(written: Path) -> None:
    whole = written.read_bytes()
    with zipfile.ZipFile(written, "a") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(WeightsError, match="is a link"):
        unetzoo.from_bioimageio(written)
    written.write_bytes(whole)
    with zipfile.ZipFile(written, "a") as archive:
        for k in range(1001):
            archive.writestr(f"{k}", b"")
    with pytest.raises(WeightsError, match="1,008 files; 1,000 at most"):
        unetzoo.from_bioimageio(written)


def test_descriptions_that_are_none_are_refused(written: Path) -> None:
    whole = written.read_bytes()
    aliases = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    cases = {
        aliases.encode(): "aliases",
        b"- a\n- list": "unetzoo did not write",
        b"type: model\nconfig: {stardist: {}}": "unetzoo did not write",
        b"config: {unetzoo: {model: weights.pt}}": "no sha256 of 'weights.pt'",
        b"\xff\xfe": "cannot be read",
        b"x" * 200_000: "longer than",
        b"a: !!python/object/apply:os.getcwd []": "cannot be read",
    }
    for content, said in cases.items():
        written.write_bytes(whole)
        with pytest.raises(WeightsError, match=said):
            unetzoo.from_bioimageio(rewritten(written, rdf_yaml=content))
    with pytest.raises(WeightsError, match=r"is not a BioImage\.IO package"):
        unetzoo.from_bioimageio(rewritten(written, rdf_yaml=None))


def test_the_program_as_the_model_is_no_way_in(written: Path) -> None:
    """A description that names the program for the tensors has it read as tensors, which it is not."""
    members = members_of(written.read_bytes())
    rdf = described(members)
    rdf["config"]["unetzoo"]["model"] = PROGRAM
    rdf["attachments"] = [{"source": PROGRAM, "sha256": hashlib.sha256(members[PROGRAM]).hexdigest()}]
    with pytest.raises(DamagedError, match=r"was written by torch\.save"):
        unetzoo.from_bioimageio(rewritten(written, rdf_yaml=yaml.safe_dump(rdf).encode()))
