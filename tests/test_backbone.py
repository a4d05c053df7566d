"""Backbones against the libraries they come from, and against their own strided selves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import ceil
from pathlib import Path
from urllib.error import URLError

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.transforms.v2 import functional as transforms

from frugalseg.nets import resnet_ws
from frugalseg.nets.backbone import Backbone, build
from frugalseg.nets.heads import LargeFOV

NAMES = ["vgg16", "resnet18", "resnet50", pytest.param("resnet101", marks=pytest.mark.slow), "mobilenet_v2", "tiny"]


def pictures(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)


def imagenet(images: Tensor) -> Tensor:
    """The normalisation of torchvision's and timm's weights, in the library's words."""
    return transforms.normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def lively(net: nn.Module) -> nn.Module:
    """For evaluation, with batch norms and layer scales that do something, so that a mix-up of layers shows."""
    for name, parameter in net.named_parameters():
        if name.endswith("gamma"):  # ConvNeXt starts its blocks at 1e-6
            nn.init.uniform_(parameter, 0.5, 1.5)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.8, 1.6)
            nn.init.uniform_(module.bias, -0.1, 0.3)
    return net.eval()


def assert_equal(got: Tensor, expected: Tensor) -> None:
    """Equal up to rounding, for features of any scale."""
    assert got.shape == expected.shape
    assert expected.std() > 0
    torch.testing.assert_close(got / expected.std(), expected / expected.std(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", [*NAMES, "vgg16_plain", "resnet18_ws", "resnet50_ws", "resnet101_ws"])
def test_map_is_the_picture_over_the_stride_rounded_up(name: str, stride: int) -> None:
    with torch.device("meta"):  # shapes without arithmetic
        net = build(name, stride)
        for height, width in ((32, 33), (97, 40), (321, 500)):
            assert net(torch.zeros(2, 3, height, width)).shape == (2, net.channels, ceil(height / stride), ceil(width / stride))


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize(("name", "shift"), [("resnet18_ws", 7.0), ("vgg16_plain", 7.5), ("resnet18", 0.0), ("tiny", 0.0)])
def test_points_lie_where_the_network_says(name: str, shift: float, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all weights are alike and pools are means, what a point sees is symmetric about its middle."""

    def mean(pool: resnet_ws.Pool, features: Tensor) -> Tensor:
        return functional.avg_pool2d(features if pool.stride == 2 else functional.pad(features, (0, 1, 0, 1)), 2, pool.stride)

    monkeypatch.setattr(resnet_ws.Pool, "forward", mean)
    monkeypatch.setattr(nn.MaxPool2d, "forward", lambda pool, features: functional.avg_pool2d(features, 3, pool.stride, 1))
    net = build(name, stride).double().eval()
    for layer in (layer for layer in net.modules() if isinstance(layer, nn.Conv2d)):
        nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
    image = torch.full((1, 3, 1, 512), 200.0, dtype=torch.float64).expand(1, 3, 2 * stride, 512).clone().requires_grad_()
    net(image)[0, :, 1, 256 // stride].sum().backward()
    seen = image.grad.abs().sum((0, 1, 2))
    assert float((seen * torch.arange(512)).sum() / seen.sum()) == pytest.approx(256 + shift, abs=0.01)
    assert net.shift == shift


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnet_ws_has_no_stride_in_its_stages_and_takes_torchvisions_weights_there(name: str, tmp_path: Path) -> None:
    original = lively(models.get_model(name))
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    with pytest.warns(UserWarning, match=r"no weights of its stem.*--frozen 0"):
        net = build(f"{name}_ws", 8, weights=tmp_path / "weights.pth")
    ours, theirs = net.body.state_dict(), original.state_dict()
    assert {key for key in ours if not key.startswith("stem.")} == {key for key in theirs if key.startswith("layer")}
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items() if key.startswith("layer"))
    strides = {key: layer.stride for key, layer in net.body.named_modules() if isinstance(layer, nn.Conv2d)}
    assert [key for key, stride in strides.items() if stride != (1, 1)] == ["stem.conv1"]
    dilations = {layer.dilation for layer in net.body.get_submodule("layer4").modules() if isinstance(layer, nn.Conv2d)}
    assert (2, 2) in dilations
    torch.save(build("tiny").body.state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="expected at least 85%"):
        build(f"{name}_ws", 8, weights=tmp_path / "other.pth")


def test_vgg16_is_deeplab_large_fov() -> None:
    with torch.device("meta"):
        net, original = build("vgg16", 8), models.vgg16().features
        assert net(torch.zeros(1, 3, 321, 321)).shape == (1, 512, 41, 41)
    layers = list(net.modules())
    assert [layer.stride for layer in layers if isinstance(layer, nn.MaxPool2d)] == [2, 2, 2, (1, 1), (1, 1)]
    assert [layer.dilation[0] for layer in layers if isinstance(layer, nn.Conv2d)] == [1] * 10 + [2] * 3
    names = {key.removeprefix("features."): value.shape for key, value in net.body.state_dict().items()}
    assert names == {key: value.shape for key, value in original.state_dict().items()}


def test_vgg16_is_torchvisions_with_overlapping_pools() -> None:
    net = build("vgg16", 32).eval()
    with torch.device("meta"):
        original = models.vgg16().features
    original.load_state_dict(net.body.get_submodule("features").state_dict(), assign=True)
    pools = [nn.MaxPool2d(3, 2, 1) if isinstance(layer, nn.MaxPool2d) else layer for layer in original]
    images = pictures(40, 33)
    with torch.no_grad():
        assert_equal(net(images), nn.Sequential(*pools)(imagenet(images)))


def test_plain_vgg16_is_torchvisions_up_to_its_last_convolution(tmp_path: Path) -> None:
    original = models.vgg.make_layers(models.vgg.cfgs["D"])
    torch.save({f"features.{name}": value for name, value in original.state_dict().items()}, tmp_path / "weights.pth")
    net, images = build("vgg16_plain", 16, weights=tmp_path / "weights.pth").eval(), pictures(64, 48)
    with torch.no_grad():
        assert_equal(net(images), original[:-1](imagenet(images)))
    layers = [layer for layer in build("vgg16_plain", 8).modules() if isinstance(layer, nn.Conv2d | nn.MaxPool2d)]
    assert [layer.stride for layer in layers if isinstance(layer, nn.MaxPool2d)] == [2, 2, 2, (1, 1)]
    assert [layer.dilation[0] for layer in layers if isinstance(layer, nn.Conv2d)] == [1] * 10 + [2] * 3


@pytest.mark.parametrize(
    ("name", "dense", "strided"),
    [("resnet18", 8, 32), ("mobilenet_v2", 8, 32), ("tiny", 8, 16), ("vgg16", 16, 32), ("vgg16_plain", 8, 16)],
)
def test_dense_map_holds_the_strided_networks_features(name: str, dense: int, strided: int) -> None:
    fine, coarse = (lively(build(name, stride)) for stride in (dense, strided))
    fine.load_state_dict(coarse.state_dict())
    images, step = pictures(72, 65), strided // dense
    with torch.no_grad():
        assert_equal(fine(images)[..., ::step, ::step], coarse(images))


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", ["resnet50", pytest.param("resnet101", marks=pytest.mark.slow)])
def test_resnet_equals_torchvisions_dilated_one(name: str, stride: int) -> None:
    oracle = lively(models.get_model(name, replace_stride_with_dilation=[False, stride == 8, True]))
    net = build(name, stride).eval()
    net.body.load_state_dict({key: value for key, value in oracle.state_dict().items() if not key.startswith("fc")})
    oracle.avgpool, oracle.fc = nn.Identity(), nn.Identity()
    images = pictures(40, 33)
    with torch.no_grad():
        assert_equal(net(images).flatten(1), oracle(imagenet(images)))


@pytest.mark.parametrize(("name", "other"), [("mobilenet_v2", "mobilenetv2_100"), ("resnet18", "resnet18")])
@pytest.mark.parametrize("stride", [8, 16])
def test_dilation_equals_timms(name: str, other: str, stride: int) -> None:
    net, oracle = build(name, stride), timm.create_model(other, output_stride=stride, num_classes=0, global_pool="")
    order = zip(oracle.state_dict(), lively(net).state_dict().values(), strict=True)  # same layers in the same order
    oracle.load_state_dict(dict(order))
    images = pictures(40, 33)
    with torch.no_grad():
        assert_equal(net(images), oracle.eval()(imagenet(images)))


def test_mobilenet_takes_the_weights_file_whole_and_equals_torchvision(shared_data: Path) -> None:
    file = shared_data / "weights" / "mobilenet_v2_imagenet.pth"
    net = build("mobilenet_v2", 32, weights=file, normalize="half").eval()
    oracle = models.mobilenet_v2()
    oracle.load_state_dict(torch.load(file, weights_only=True))
    images = pictures(65, 96)
    with torch.no_grad():
        assert_equal(net(images), oracle.features.eval()((images.float() - 128) / 128))
    assert net.report is not None
    assert net.report.unexpected == ("classifier.1.bias", "classifier.1.weight")
    assert net.report.share == 1


def test_level_keeps_the_leading_blocks(shared_data: Path) -> None:
    file = shared_data / "weights" / "mobilenet_v2_imagenet.pth"
    whole, cut = (build("mobilenet_v2", 16, weights=file, normalize="half", level=level).eval() for level in (0, 18))
    images = pictures(33, 48)
    with torch.no_grad():
        assert_equal(whole.body.features[18](cut(images)), whole(images))
    assert (cut.channels, whole.channels) == (320, 1280)
    assert len(cut.blocks) == 18


@pytest.mark.parametrize(("name", "levels", "shapes"), [
    ("mobilenet_v2", (14, 18, 0), [(96, 16), (320, 16), (1280, 16)]),
    ("resnet18", (2, 5), [(64, 4), (512, 16)]),
    ("vgg16", (4, 0), [(512, 16), (512, 16)]),
    ("tiny", (5, 4, 1), [(128, 16), (96, 16), (32, 2)]),
])  # fmt: skip
def test_maps_of_several_blocks_are_those_of_the_network_cut_there(
    name: str, levels: tuple[int, ...], shapes: list[tuple[int, int]]
) -> None:
    net, images = build(name, 16).eval(), pictures(33, 48)
    assert net.shapes(levels) == shapes
    with torch.no_grad():
        maps = net.maps(images, levels)
        for level, (_, stride), features in zip(levels, shapes, maps, strict=True):
            cut = build(name, min(32, max(8, stride)), level=level).eval() if stride >= 8 else None
            if cut is not None:
                names = cut.body.state_dict().keys()
                cut.body.load_state_dict({key: value for key, value in net.body.state_dict().items() if key in names})
                assert_equal(features, cut(images))
            assert features.shape[2:] == (-(-33 // stride), -(-48 // stride))
        assert_equal(net.maps(images, (0,))[0], net(images))


def test_blocks_that_are_not_there_give_no_maps() -> None:
    with pytest.raises(ValueError, match="numbers from 1 to 5, or 0"):
        build("tiny").maps(pictures(33, 48), (6,))
    with pytest.raises(ValueError, match="leave levels out"):
        build("timm/resnet18").maps(pictures(33, 48), (2,))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(build("resnet18").body.state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match=r"features\.0"):
        build("mobilenet_v2", weights=tmp_path / "resnet18.pth")


def test_weights_that_are_no_file_name_the_choices() -> None:
    with pytest.raises(ValueError, match="imagenet"):
        build("resnet18", weights="imagnet")
    with pytest.raises(ValueError, match=r"no file.*\.safetensors"):
        build("tiny", weights="imagenet")


@pytest.mark.parametrize(
    ("name", "downloader"), [("resnet18", "torch.hub.download_url_to_file"), ("timm/resnet18", "timm.create_model")]
)
def test_failed_download_says_what_to_type(name: str, downloader: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*args: object, **options: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(downloader, offline)
    with pytest.raises(OSError, match=r"no route to host.*--weights FILE"):
        build(name, weights="imagenet")


@pytest.mark.parametrize("normalize", ["imagenet", "half", "caffe"])
def test_bytes_and_floats_agree(normalize: str) -> None:
    net, images = build("tiny", normalize=normalize).eval(), pictures(32, 32)
    with torch.no_grad():
        assert torch.equal(net(images), net(images.float()))


def test_normalisation_by_hand() -> None:
    images = torch.tensor([255, 0, 128], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = {
        "imagenet": [(1 - 0.485) / 0.229, -0.456 / 0.224, (128 / 255 - 0.406) / 0.225],
        "half": [127 / 128, -1, 0],
        "caffe": [128 - 104.008, 0 - 116.669, 255 - 122.675],
    }
    for normalize, values in expected.items():
        net = Backbone(nn.Identity(), [], channels=3, stride=1, normalize=normalize)
        torch.testing.assert_close(net(images).flatten(), torch.tensor(values), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "frozen", "first"),
    [
        ("mobilenet_v2", 4, "features.4."),
        ("resnet18", 3, "layer3"),
        ("tiny", 2, "stage2"),
        ("timm/resnet18", 3, "net.layer3"),
        ("timm/convnext_atto", 2, "net.stages_2"),
    ],
)
def test_frozen_blocks_stay_and_the_rest_learns(name: str, frozen: int, first: str) -> None:
    net = lively(build(name, 16, frozen=frozen)).train()
    before = copy.deepcopy(net.body.state_dict())
    net(pictures(32, 32)).square().mean().backward()
    names = list(before)
    start = next(index for index, key in enumerate(names) if key.startswith(first))
    learns = {key: parameter.grad is not None and bool(parameter.grad.any()) for key, parameter in net.body.named_parameters()}
    moves = {key: not torch.equal(before[key], value) for key, value in net.body.named_buffers()}
    assert learns | moves == {key: index >= start for index, key in enumerate(names)}


def test_freeze_norm_fixes_every_batch_norm_but_no_convolution() -> None:
    net = build("tiny", freeze_norm=True).train()
    before = copy.deepcopy(net.state_dict())
    net(pictures(32, 32)).mean().backward()
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(parameter.grad is None for norm in norms for parameter in norm.parameters())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(module.weight.grad.any() for module in net.modules() if isinstance(module, nn.Conv2d))
    assert net.groups()["norms"] == []


def test_wholly_frozen_backbone_records_nothing() -> None:
    net = build("tiny", frozen=5).train()
    assert not net(pictures(32, 32)).requires_grad


def test_copy_freezes_its_own_modules() -> None:
    copied = copy.deepcopy(build("tiny", frozen=2)).train()
    stem = copied.body.get_submodule("stem")
    assert copied.blocks[0][0] is stem
    assert not stem.training


def test_channels_last_stays_channels_last() -> None:
    net = build("tiny").to(memory_format=torch.channels_last)
    images = pictures(32, 32).to(memory_format=torch.channels_last)
    assert net(images).is_contiguous(memory_format=torch.channels_last)


def test_groups_share_out_what_learns() -> None:
    groups = build("vgg16", frozen=2).groups()
    assert [len(groups[kind]) for kind in ("weights", "biases", "norms")] == [9, 9, 0]  # 13 convolutions, 4 of them frozen
    net = build("mobilenet_v2")
    shared = [id(parameter) for group in net.groups().values() for parameter in group]
    assert sorted(shared) == sorted(id(parameter) for parameter in net.parameters())


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "mobilenet_v2", "tiny"])
def test_gradient_reaches_the_first_layer(name: str) -> None:
    net = build(name, 16)
    net(pictures(32, 32)).square().mean().backward()
    assert next(net.parameters()).grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet5"}, "did you mean resnet50"),
        ({"name": "mobilenetv2"}, "did you mean mobilenet_v2"),
        ({"name": "timm/resnet18x"}, "did you mean .*timm/resnet18"),
        ({"name": "tiny", "output_stride": 12}, r"got 12, expected one of \(8, 16, 32\)"),
        ({"name": "tiny", "output_stride": 32}, "type output_stride=16"),
        ({"name": "resnet18", "level": 3, "output_stride": 16}, "type output_stride=8"),
        ({"name": "resnet18", "level": 6}, "a number from 1 to 5"),
        ({"name": "tiny", "frozen": 6}, "got 6, expected at most the backbone's 5 blocks"),
        ({"name": "tiny", "normalize": "none"}, "got 'none', expected one of"),
        ({"name": "timm/vit_tiny_patch16_224", "output_stride": 8}, "type output_stride=16"),
        ({"name": "timm/resnet18", "level": 9}, "level=9"),
    ],
)
def test_settings_a_network_does_not_offer_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_all_faults_are_reported_together() -> None:
    with pytest.raises(ValueError, match=r"(?s)backbone.*output_stride.*normalize"):
        build("rsnet50", output_stride=7, normalize="raw")


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32)])
def test_pictures_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected \\(B, 3, H, W\\)"):
        build("tiny")(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("resnet18", 8),
        ("mobilenetv2_100", 16),
        ("convnext_atto", 16),
        ("swin_tiny_patch4_window7_224", 32),
        ("vit_tiny_patch16_224", 16),
    ],
)
def test_timm_maps_have_the_promised_shape(name: str, stride: int) -> None:
    net = build(f"timm/{name}", stride).eval()
    with torch.no_grad():
        features = net(pictures(97, 64))
    assert features.shape == (2, net.channels, ceil(97 / stride), ceil(64 / stride))


@pytest.mark.parametrize(
    ("name", "whole_map"), [("resnet18", lambda net, x: net(x)), ("convnext_atto", lambda net, x: net.stages(net.stem(x)))]
)
def test_timm_takes_a_file_of_the_whole_network(name: str, whole_map: Callable[..., Tensor], tmp_path: Path) -> None:
    whole = lively(timm.create_model(name, output_stride=16))
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    net = build(f"timm/{name}", 16, weights=tmp_path / "whole.pth").eval()
    whole.reset_classifier(0, "")
    images = pictures(32, 48)
    with torch.no_grad():
        assert_equal(net(images), whole_map(whole, imagenet(images)))


def test_large_fov_sees_24_cells_across() -> None:
    head = LargeFOV(2, channels=4, dropout=0.0)
    features = torch.zeros(1, 2, 41, 41, requires_grad=True)
    nn.init.constant_(head.fc6.weight, 1.0)
    nn.init.constant_(head.fc7.weight, 1.0)
    nn.init.constant_(head.fc6.bias, 1.0)
    output = head(features)
    assert output.shape == (1, 4, 41, 41)
    output[0, 0, 20, 20].backward()
    assert features.grad[0, 0].nonzero().tolist() == [[row, column] for row in (8, 20, 32) for column in (8, 20, 32)]


def test_large_fov_pools_first_if_asked() -> None:
    head = LargeFOV(3, channels=4, dilation=2, average=True).eval()
    features = torch.rand(1, 3, 9, 9)
    mean = nn.functional.avg_pool2d(features, 3, 1, 1)  # the border counts as zeros, as in Caffe
    plain = LargeFOV(3, channels=4, dilation=2).eval()
    plain.load_state_dict(head.state_dict())
    torch.testing.assert_close(head(features), plain(mean))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "tiny"])
def test_a_folded_norm_changes_neither_the_map_nor_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    plain = build(name)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data):
                tensor.uniform_(0.5, 2)
    folded = copy.deepcopy(plain)
    folded.freeze(0, norm=True)
    assert folded.state_dict().keys() == plain.state_dict().keys()
    plain.eval()
    images = torch.rand(2, 3, 65, 65) * 255
    maps = [net(images) for net in (plain, folded)]
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-4, atol=1e-4)
    for features in maps:
        features.square().mean().backward()
    grads = {key: parameter.grad for key, parameter in plain.named_parameters()}
    learned = {key: parameter.grad for key, parameter in folded.named_parameters() if parameter.requires_grad}
    assert learned
    for key, grad in learned.items():
        torch.testing.assert_close(grad, grads[key], rtol=1e-3, atol=1e-3 * float(grads[key].abs().max()))
