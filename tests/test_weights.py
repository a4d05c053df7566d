"""Weights survive every way of saving; nothing bad in a file gets into a module, nothing good on disk gets lost."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from frugalseg.nets.weights import WeightsError, load_weights, read_weights, save_weights


def network(seed: int = 0, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = {"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4), "fc": nn.Linear(4, classes)}
    net = nn.Sequential()
    for name, layer in layers.items():
        net.add_module(name, layer)
    return net


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


class Evil:
    """Pickled, it makes a reader that trusts it write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_saved_weights_read_back_with_their_metadata(tmp_path):
    state = {**network().state_dict(), "half": torch.randn(3).bfloat16(), "scalar": torch.tensor(3), "none": torch.zeros(0, 4)}
    metadata = {"method": "aepsl", "config": {"rounds": 3, "rate": 1e-3, "name": None}, "classes": ["cat", "köttur"]}
    save_weights(tmp_path / "new" / "last.safetensors", state, metadata)
    back, read = read_weights(tmp_path / "new" / "last.safetensors")
    assert same(back, state)
    assert read == metadata
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["last.safetensors"]


def test_other_programs_read_what_is_saved(tmp_path):
    save_weights(tmp_path / "a.safetensors", network().state_dict(), {"classes": ["cat"]})
    assert same(load_file(tmp_path / "a.safetensors"), dict(network().state_dict()))
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert json.loads(file.metadata()["classes"]) == ["cat"]


def test_metadata_of_others_that_is_no_json_stays_text(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    assert read_weights(tmp_path / "a.safetensors")[1] == {"format": "pt"}


def test_shared_strided_and_expanded_tensors_are_saved_by_value(tmp_path):
    weight = torch.randn(4, 3, 2, 2)
    state = {
        "weight": weight,
        "alias": weight,
        "view": weight[1:, :2],
        "transposed": weight.permute(3, 2, 1, 0),
        "channels_last": weight.to(memory_format=torch.channels_last),
        "expanded": torch.ones(1, 1).expand(3, 5),
        "parameter": nn.Parameter(weight),
    }
    save_weights(tmp_path / "a.safetensors", state)
    assert same(read_weights(tmp_path / "a.safetensors")[0], {name: value.detach() for name, value in state.items()})


def test_saving_leaves_the_permissions_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        save_weights(tmp_path / "a.safetensors", {"a": torch.ones(1)})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_full_disk_is_an_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "last.safetensors"
    save_weights(path, {"a": torch.ones(3)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # writing more fails as on a full disk
    try:
        with pytest.raises(OSError, match=r"cannot write 0\.4 MB .*last\.safetensors.*is kept; free space"):
            save_weights(path, {"a": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same(read_weights(path)[0], {"a": torch.ones(3)})
    assert [file.name for file in tmp_path.iterdir()] == ["last.safetensors"]


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="cannot write"):
        save_weights(tmp_path / "file" / "last.safetensors", {"a": torch.ones(1)})


def test_a_process_killed_at_any_instant_of_saving_leaves_the_old_or_the_new_file(tmp_path):
    path = tmp_path / "last.safetensors"
    save_weights(path, {"a": torch.zeros(300_000)}, {"step": 0})
    code = (
        "import sys, torch; from frugalseg.nets.weights import save_weights\nprint('ready', flush=True)\n"
        "for step in range(10**6): save_weights(sys.argv[1], {'a': torch.full((300_000,), float(step))}, {'step': step})"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(300):
        state, metadata = read_weights(path)  # also while another process is writing
        assert (state["a"] == metadata["step"]).all()
    process.kill()
    process.wait()
    state, metadata = read_weights(path)
    assert (state["a"] == metadata["step"]).all()


def test_what_is_no_tensor_or_no_json_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"\['step'\] that are no tensors"):
        save_weights(tmp_path / "a.safetensors", {"step": 3})
    with pytest.raises(TypeError, match="JSON"):
        save_weights(tmp_path / "a.safetensors", {"a": torch.ones(1)}, {"path": tmp_path})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {"state_dict": {f"module.{name}": value for name, value in state.items()}}},
        lambda state: {"module._orig_mod." + name: value for name, value in state.items()},
    ],
    ids=["plain", "state_dict", "parallel", "compiled"],
)
def test_torch_files_load_however_they_were_saved(tmp_path, wrap, legacy):
    torch.save(wrap(network(1).state_dict()), tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    net = network(0)
    report = load_weights(net, tmp_path / "a.pth")
    assert same(net.state_dict(), network(1).state_dict())
    assert (report.share, report.missing, report.unexpected, report.mismatched) == (1, (), (), ())


def test_format_is_told_by_content_and_not_by_name(tmp_path):
    save_weights(tmp_path / "a.pth", network(1).state_dict())
    torch.save(network(1).state_dict(), tmp_path / "b.bin")
    for name in ("a.pth", "b.bin"):
        net = network(0)
        load_weights(net, tmp_path / name)
        assert same(net.state_dict(), network(1).state_dict())


def test_report_names_what_is_missing_unexpected_and_of_another_shape(tmp_path):
    state = network(1, classes=7).state_dict()
    state["extra"] = state.pop("conv.bias")
    save_weights(tmp_path / "a.safetensors", state)
    net = network(0)
    report = load_weights(net, tmp_path / "a.safetensors", least=0.5)
    assert report.missing == ("conv.bias",)
    assert report.unexpected == ("extra",)
    assert report.mismatched == (
        "fc.bias: got (7,) float32, expected (3,) float32",
        "fc.weight: got (7, 4) float32, expected (3, 4) float32",
    )
    assert report.loaded == ("conv.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.weight")
    assert report.share == 5 / 8
    assert torch.equal(net.conv.weight, network(1).conv.weight)
    assert torch.equal(net.fc.weight, network(0).fc.weight)
    for words in ("loaded 5 of 8", "1 missing: conv.bias", "1 unexpected: extra", "2 mismatched"):
        assert words in str(report)


def test_too_few_weights_are_an_error_that_leaves_the_module_alone(tmp_path):
    state = network(1).state_dict()
    del state["fc.weight"]
    save_weights(tmp_path / "a.safetensors", state)
    net = network(0)
    with pytest.raises(WeightsError, match=r"(?s)loaded 7 of 8.*1 missing: fc\.weight.*at least 100%.*least="):
        load_weights(net, tmp_path / "a.safetensors")
    assert same(net.state_dict(), network(0).state_dict())


def test_prefixes_map_names_and_the_error_says_which_would_fit(tmp_path):
    save_weights(tmp_path / "a.safetensors", {f"encoder.q.{name}": value for name, value in network(1).state_dict().items()})
    net = network(0)
    with pytest.raises(WeightsError, match=r"prefixes=\{'encoder\.q\.': ''\}"):
        load_weights(net, tmp_path / "a.safetensors")
    load_weights(net, tmp_path / "a.safetensors", prefixes={"encoder.": "no.", "encoder.q.": ""})
    assert same(net.state_dict(), network(1).state_dict())
    outer = nn.ModuleDict({"body": network(0)})
    save_weights(tmp_path / "b.safetensors", network(1).state_dict())
    with pytest.raises(WeightsError, match=r"prefixes=\{'': 'body\.'\}"):
        load_weights(outer, tmp_path / "b.safetensors")
    load_weights(outer, tmp_path / "b.safetensors", prefixes={"": "body."})
    assert same(outer["body"].state_dict(), network(1).state_dict())


def test_prefixes_that_make_two_names_one_are_an_error(tmp_path):
    save_weights(tmp_path / "a.safetensors", {"student.a": torch.ones(1), "teacher.a": torch.zeros(1)})
    with pytest.raises(WeightsError, match="two tensors the name 'a'"):
        load_weights(network(), tmp_path / "a.safetensors", prefixes={"student.": "", "teacher.": ""})


def test_half_precision_is_widened_but_integers_are_no_weights(tmp_path):
    save_weights(tmp_path / "half.safetensors", {name: value.half() for name, value in network(1).state_dict().items()})
    net = network(0)
    load_weights(net, tmp_path / "half.safetensors")
    assert net.conv.weight.dtype == torch.float32
    assert torch.equal(net.conv.weight, network(1).conv.weight.half().float())
    save_weights(tmp_path / "int8.safetensors", {name: value.to(torch.int8) for name, value in network(1).state_dict().items()})
    with pytest.raises(WeightsError, match=r"conv\.bias: got \(4,\) int8, expected \(4,\) float32"):
        load_weights(net, tmp_path / "int8.safetensors")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, bad):
    state = network(1).state_dict()
    state["conv.weight"][0, 0, 0, 0] = bad
    save_weights(tmp_path / "a.safetensors", state)
    net = network(0)
    with pytest.raises(WeightsError, match=r"NaN or infinity in conv\.weight \(1 tensors\)"):
        load_weights(net, tmp_path / "a.safetensors")
    assert same(net.state_dict(), network(0).state_dict())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_hostile_pickle_is_refused_and_never_run(tmp_path, legacy):
    torch.save({"state_dict": Evil(tmp_path / "pwned")}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"a\.pth: holds \S*system, and nothing but tensors"):
        load_weights(network(), tmp_path / "a.pth")
    assert not (tmp_path / "pwned").exists()


def test_a_whole_pickled_module_is_refused_with_advice(tmp_path):
    torch.save(network(), tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"holds torch\.nn\.\S*Sequential.*state_dict"):
        load_weights(network(), tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "legacy.pth"])
@pytest.mark.parametrize("keep", [5, 40, 0.5, 0.97])
def test_truncated_files_are_errors(tmp_path, name, keep):
    path = tmp_path / name
    if name == "a.safetensors":
        save_weights(path, network().state_dict())
    else:
        torch.save(network().state_dict(), path, _use_new_zipfile_serialization=name == "a.pth")
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(WeightsError, match=r"(truncated|copy or download it again)"):
        load_weights(network(), path)


def test_files_that_are_no_weights_are_errors(tmp_path):
    for name, content in (
        ("empty.pth", b""),
        ("text.pth", b"hello, these are no weights\n"),
        ("page.safetensors", b"<!DOCTYPE html>"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=rf"{name}: .*(empty|neither safetensors nor)"):
            load_weights(network(), tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    for name, got in (("list.pth", "got list"), ("epoch.pth", r"got a mapping of \['epoch'\]")):
        with pytest.raises(WeightsError, match=got):
            load_weights(network(), tmp_path / name)
    itself: dict[str, object] = {}
    itself["model"] = itself
    torch.save(itself, tmp_path / "circle.pth")
    with pytest.raises(WeightsError, match=r"got a mapping of \['model'\]"):
        load_weights(network(), tmp_path / "circle.pth")
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(network(), tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match="a folder"):
        load_weights(network(), tmp_path)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        read_weights(tmp_path / "list.pth")


def test_files_from_before_batch_norm_counted_steps_load_wholly(tmp_path):
    torch.save({name: value for name, value in network(1).state_dict().items() if "num_batches" not in name}, tmp_path / "a.pth")
    assert load_weights(network(0), tmp_path / "a.pth").share == 1


def test_the_real_imagenet_weights_load_wholly_into_torchvisions_network(shared_data):
    from torchvision.models import mobilenet_v2

    path = shared_data / "weights" / "mobilenet_v2_imagenet.pth"
    if not path.is_file():
        pytest.skip(f"no weights at {path}")
    net = mobilenet_v2()
    report = load_weights(net, path)
    assert (report.share, report.unexpected) == (1, ())
    features = mobilenet_v2().features
    report = load_weights(features, path, prefixes={"features.": ""})
    assert report.share == 1
    assert report.unexpected == ("classifier.1.bias", "classifier.1.weight")
    assert torch.equal(features[0][0].weight, net.features[0][0].weight)
