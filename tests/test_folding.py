"""Copies for inference: the same logits, nothing in them that only training needs, and what they refuse."""

from __future__ import annotations

import copy
import functools
import pickle
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import NAMES, ONCE, PADDED, SMALL, flags, light, tried
from drawn import quick
from PIL import Image
from reference import has_reference
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils import prune

import unetzoo
from unetzoo import ConfigError, InputError, UnetzooError, WeightsError, naming
from unetzoo.nn.layers import ConvNormAct

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))


def disturbed(name: str, **options: object) -> unetzoo.SegmentationModel:
    """Return a model whose batch norms have statistics, gains and shifts that are not 0 and 1."""
    return quick(name, **light(name), **options)


def some_images(name: str, channels: int = 3) -> Tensor:
    side = (188, 204) if name == "unet_valid" else (37, 51)
    return torch.randn(2, channels, *side, generator=torch.Generator().manual_seed(1))


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert float((found - expected).abs().max()) <= tolerance * float(expected.max() - expected.min())


@pytest.mark.parametrize("name", tried(NAMES, ONCE))
def test_logits_are_the_same(name: str) -> None:
    model = disturbed(name)
    optimized = unetzoo.optimize(model)
    assert model.training
    with torch.no_grad():
        assert_same(optimized(some_images(name)), model.eval()(some_images(name)))
    if has_reference(*naming.index()[name]):  # of another part some norm may follow no convolution
        assert not any(isinstance(module, nn.BatchNorm2d | nn.Dropout) for module in optimized.modules())
    assert not any(parameter.requires_grad for parameter in optimized.parameters())


@pytest.mark.parametrize("name", tried(SMALL, ONCE))
def test_only_what_inference_needs_is_left(name: str) -> None:
    model = disturbed(name, **flags(name)).eval()
    optimized = unetzoo.optimize(model)
    images = some_images(name)
    with torch.no_grad():
        assert_same(optimized(images), model(images))
    assert not any(isinstance(module, nn.Dropout) for module in optimized.modules())
    if not model.decoder.averages_heads:
        with unetzoo.model.on_meta():
            single = unetzoo.create(name, **{**light(name), **flags(name), "deep_supervision": False}).state_dict()
        kernels = {key for key in single if single[key].ndim == 4}
        left = {key for key, tensor in optimized.network.state_dict().items() if tensor.ndim == 4}
        assert kernels - left <= {"head.conv.weight"}  # which may be part of the convolution before it
        assert left <= kernels


@pytest.mark.parametrize("norm", ["group", "instance", "layer", None])
def test_other_norms_stay(norm: str | None) -> None:
    model = disturbed("unet3p_resnet18", norm=norm).eval()
    with torch.no_grad():
        assert_same(unetzoo.optimize(model)(some_images("")), model(some_images("")))


@pytest.mark.parametrize("name", ["unetpp", "unetpp_resnet18", "unetpp_lite_resnet18"])
@pytest.mark.parametrize("level", [1, 3, 4])
def test_pruned_models(name: str, level: int) -> None:
    pruned = disturbed(name, deep_supervision=True).prune(level).eval()
    with torch.no_grad():
        assert_same(unetzoo.optimize(pruned)(some_images(name)), pruned(some_images(name)))


def test_unused_heads_and_ends_are_dropped() -> None:
    supervised = unetzoo.optimize(disturbed("unetpp_resnet18", deep_supervision=True))
    single = unetzoo.optimize(disturbed("unetpp_resnet18"))
    assert list(supervised.state_dict()) == list(single.state_dict())
    averaged = disturbed("unetpp_resnet18", deep_supervision=True, output="average").eval()
    with torch.no_grad():
        assert_same(unetzoo.optimize(averaged)(some_images("")), averaged(some_images("")))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["unet3p_resnet18", "unetpp", "unet_valid"])
def test_other_types(name: str, dtype: torch.dtype) -> None:
    """Logits come in the images' own type, and differ by what that type rounds."""
    model = disturbed(name).eval()
    optimized = unetzoo.optimize(model, dtype=dtype)
    assert {parameter.dtype for parameter in optimized.parameters()} == {dtype}
    tolerance = {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float64: 1e-5}[dtype]
    with torch.no_grad():
        assert_same(optimized(some_images(name)), model(some_images(name)), tolerance)
        probabilities = optimized.predict(some_images(name))
    assert probabilities.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def overfitted(images: Tensor, masks: Tensor) -> unetzoo.SegmentationModel:
    torch.manual_seed(0)
    model = unetzoo.create("unetpp", base_channels=8, levels=2).train()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(images), masks).backward()
        optimiser.step()
    return model.eval()


def test_bfloat16_masks_of_real_images(shared_data: Path) -> None:
    """The masks of a model that has learnt these images agree in at least 99.5 % of their pixels."""
    files = sorted((shared_data / "nuclei" / "images").iterdir())[:4]
    images, masks = [], []
    for file in files:
        mask = next((shared_data / "nuclei" / "masks").glob(f"{file.stem}.*"))
        images.append(np.array(Image.open(file).convert("RGB").resize((64, 64))))
        masks.append(np.array(Image.open(mask).convert("L").resize((64, 64), Image.Resampling.NEAREST)) > 0)
    batch = torch.tensor(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    truth = torch.tensor(np.stack(masks))[:, None].float()
    model = overfitted(batch, truth)
    with torch.no_grad():
        expected = model(batch) > 0
        assert float((expected == (truth > 0)).float().mean()) > 0.9  # it has learnt something
        found = unetzoo.optimize(model, example=batch, dtype=torch.bfloat16)(batch) > 0
        folded = unetzoo.optimize(model, example=batch)(batch) > 0
    assert float((found == expected).float().mean()) >= 0.995
    assert float((folded == expected).float().mean()) >= 0.9999


def test_the_model_itself_stays_as_it_was() -> None:
    model = disturbed("unetpp_resnet18", dropout=0.5, deep_supervision=True)
    before = copy.deepcopy(model.state_dict())
    unetzoo.optimize(model, example=some_images(""), dtype=torch.bfloat16)
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_made_in_inference_mode_it_is_as_any_other(tmp_path: Path) -> None:
    """Tensors of inference mode have no count of changes, so nothing that is made of them can be kept."""
    model = disturbed("resunet18").eval()
    unetzoo.save(model, tmp_path / "it.safetensors")
    expected, images = unetzoo.optimize(model), some_images("")
    with torch.inference_mode():
        for given in (model, unetzoo.load(tmp_path / "it.safetensors")):
            found = unetzoo.optimize(given)
            assert torch.equal(found(images), expected(images))
            assert not any(tensor.is_inference() for tensor in (*found.parameters(), *found.buffers()))


def test_a_norm_that_a_convolution_does_not_feed_alone_stays() -> None:
    """Only pairs that are known are folded: of a user's own blocks nothing is guessed."""

    class Block(nn.Sequential):
        pass

    model = disturbed("resunet18").eval()
    model.decoder.convs[0].body[1].act = Block(nn.ReLU(), nn.Conv2d(512, 512, 1), nn.BatchNorm2d(512).eval())
    optimized = unetzoo.optimize(model)
    left = [module for module in optimized.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(left) == 1
    with torch.no_grad():
        assert_same(optimized(some_images("")), model(some_images("")))


class Swapped(ConvNormAct):
    """Its norm comes before its convolution, of as many channels: to fold it would be wrong."""

    def forward(self, *sources: Tensor) -> Tensor:
        (x,) = sources
        return self.act(self.conv(self.norm(x)))


class SwappedAndSaid(Swapped):
    def forward(self, *sources: Tensor) -> Tensor:
        return super().forward(*sources)

    def foldable(self) -> list[tuple[str, str]]:
        return []


@pytest.mark.parametrize("kind", [Swapped, SwappedAndSaid])
def test_a_changed_block_is_not_folded(kind: type[ConvNormAct]) -> None:
    model = disturbed("unet")
    block = model.encoder.levels[2][1]
    block.__class__ = kind
    model.eval()
    model.encoder.levels[2].forward = lambda x: block(model.encoder.levels[2][0](x))
    optimized = unetzoo.optimize(model)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in optimized.modules()) == 1


def test_what_shipped_parts_fold_is_every_batch_norm() -> None:
    """The pairs that each module names are those of torchvision's own order of layers, found by running it."""
    model = disturbed("resunet50").eval()
    order: list[str] = []
    for name, module in model.encoder.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(lambda *_, name=name: order.append(name))
    with torch.no_grad():
        model(some_images(""))
    assert sorted(model.encoder.foldable()) == sorted(zip(order[::2], order[1::2], strict=True))


def test_copies_and_pickles() -> None:
    optimized = unetzoo.optimize(disturbed("unetpp", levels=2))
    with torch.no_grad():
        expected = optimized(some_images(""))
        assert torch.equal(copy.deepcopy(optimized)(some_images("")), expected)
        assert torch.equal(pickle.loads(pickle.dumps(optimized))(some_images("")), expected)


@pytest.mark.skipif(TORCH < (2, 14), reason="torch before 2.14 ties the sizes of max-pools together when it exports")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("dtype", [pytest.param(None, marks=pytest.mark.slow), torch.bfloat16])
@pytest.mark.parametrize(
    "name",
    [
        "resunet18",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("unetpp", "unet3p_resnet18", "unet3p_lite")),
    ],
)
def test_exports(name: str, dtype: torch.dtype | None) -> None:
    """In full precision test_exporting.py does it by default, through files."""
    optimized = unetzoo.optimize(disturbed(name), dtype=dtype)
    free = ({0: Dim("batch"), 2: Dim("height", min=33), 3: Dim("width", min=33)},)
    exported = torch.export.export(optimized, (torch.randn(2, 3, 70, 93),), dynamic_shapes=free).module()
    with torch.no_grad():
        for size in ((1, 3, 64, 64), (3, 3, 37, 51)):
            images = torch.randn(size)
            assert_same(exported(images), optimized(images), 1e-4 if dtype is None else 0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one graph; to machine code, which takes long, where slow tests run."""
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("the inductor backend needs a C++ compiler, and g++ is not there")
    torch._dynamo.reset()
    compiled = Mock(wraps=functools.partial(torch.compile, backend=backend, fullgraph=True))
    monkeypatch.setattr(torch, "compile", compiled)
    model = disturbed("unetpp", levels=1)
    optimized = unetzoo.optimize(model, example=some_images(""), compile=True)
    with torch.no_grad():
        assert_same(optimized(some_images("")), model.eval()(some_images("")))
        assert_same(optimized.predict(some_images("")), model.predict(some_images("")))
    assert compiled.called


def test_refusals(tmp_path: Path) -> None:
    model = disturbed("unetpp", levels=1)
    optimized = unetzoo.optimize(model)
    with pytest.raises(WeightsError, match=r"optimize\(\) made .*copy.*save the model"):
        unetzoo.save(optimized, tmp_path / "it.safetensors")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"optimize\(\) made .*copy.*train the model"):
        optimized.train()
    with pytest.raises(ConfigError, match="already optimized"):
        unetzoo.optimize(optimized)
    with pytest.raises(ConfigError, match=r"SegmentationModel is needed, .* not Linear"):
        unetzoo.optimize(nn.Linear(1, 1))
    with pytest.raises(ConfigError, match=r"not DataParallel;.*wraps"):
        unetzoo.optimize(nn.DataParallel(model))
    for example in (some_images("")[:0], torch.full((1, 3, 32, 32), torch.nan)):
        with pytest.raises(InputError, match=r"example: .*without NaN or infinity.*one or more"):
            unetzoo.optimize(model, example=example)
    with pytest.raises(WeightsError, match=r"optimize\(\) made .*copy.*save the model"):
        unetzoo.save_pretrained(optimized, tmp_path / "folder")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"dtype=torch.int8: one of .*torch.bfloat16, .*is needed, or None"):
        unetzoo.optimize(model, dtype=torch.int8)
    with pytest.raises(ConfigError, match="compile='max': True or False"):
        unetzoo.optimize(model, compile="max")
    for wrong in (torch.zeros(1, 4, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "image.png"):
        with pytest.raises(InputError):
            unetzoo.optimize(model, example=wrong)
        with pytest.raises(InputError):
            optimized(wrong)


def test_weights_made_of_others_are_refused() -> None:
    pruned, parametrized = (disturbed("unetpp", levels=1).eval() for _ in range(2))
    layer = pruned.decoder.nodes["x_0_1"].conv.body[0].conv
    prune.l1_unstructured(layer, "weight", 0.5)
    torch.nn.utils.parametrizations.weight_norm(parametrized.decoder.nodes["x_0_1"].conv.body[0].conv)
    for model in (pruned, parametrized):
        with pytest.raises(ConfigError, match=r"body.0.conv.*permanent.*torch.nn.utils.prune.remove or torch.nn.utils"):
            unetzoo.optimize(model)
    prune.remove(layer, "weight")
    with torch.no_grad():
        assert_same(unetzoo.optimize(pruned)(some_images("")), pruned(some_images("")))


def test_a_copy_that_is_cast_still_takes_images_of_any_type() -> None:
    optimized = unetzoo.optimize(disturbed("unetpp", levels=1)).to(torch.bfloat16)
    assert optimized.dtype == torch.bfloat16
    with torch.no_grad():
        assert optimized(some_images("")).dtype == torch.float32


def test_an_example_that_overflows_is_told() -> None:
    """A float16 copy whose activations leave that type's range is refused, not handed out."""
    model = disturbed("unetpp", levels=1).eval()
    with torch.no_grad():
        model.encoder.levels[0][0].norm.weight.fill_(1e6)
        model.head.conv.weight.mul_(1e-6)
    unetzoo.optimize(model, example=some_images(""))
    with pytest.raises(UnetzooError, match=r"it overflows; 0\.05 is allowed"):
        unetzoo.optimize(model, example=some_images(""), dtype=torch.float16)


@pytest.mark.parametrize("name", [name for name in PADDED if name in ("unet", "unet3p", "unetpp_lite")])
def test_empty_batches(name: str) -> None:
    assert unetzoo.optimize(disturbed(name))(torch.zeros(0, 3, 40, 41)).shape == (0, 1, 40, 41)


@pytest.mark.parametrize("output", ["last", "average"])
@pytest.mark.parametrize("name", ["resunet18", "unetpp_lite_resnet18", "unet3p_lite_resnet18"])
def test_the_last_transposed_convolution_and_the_head_become_one(name: str, output: str) -> None:
    options = {"deep_supervision": True, "num_classes": 3}
    if output == "average" and name != "unetpp_lite_resnet18":
        return
    model = disturbed(name, **options, **({"output": output} if output == "average" else {})).eval()
    optimized = unetzoo.optimize(model)
    with torch.no_grad():
        assert_same(optimized(some_images(name)), model(some_images(name)))
    width = light(name).get("branch_channels", 64)
    assert (width, 3, 2, 2) in {tuple(weight.shape) for weight in optimized.parameters()}
    assert isinstance(optimized.network.head.conv, nn.Identity)
