"""Metric networks: the layer, the input and the weights that each metric is defined on, held to torchvision's own way.

Weights here are random and saved to files: scores then mean nothing, but every path from a file to features is real.
"""

from __future__ import annotations

import types

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models, transforms
from torchvision.models.feature_extraction import create_feature_extractor

from hvf.config import HvfError
from hvf.evaluation.metrics import dreamsim as dreamsim_metric
from hvf.evaluation.metrics.alexnet import LAYERS, convolutions
from hvf.evaluation.metrics.base import IMAGENET, OPENAI
from hvf.evaluation.networks import find_weights, load_network
from hvf.registry import NETWORKS

pytestmark = pytest.mark.usefixtures("no_cached_weights")
TINY_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 32, "patch_size": 56},
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 32, "heads": 2, "layers": 1},
}
IMAGES_N3HW = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))


def _alexnet_state():
    """AlexNet's convolutions at random; torchvision would first draw a classifier of 55 million weights."""
    with torch.device("meta"):
        state = convolutions().state_dict()
    return {key: torch.randn(value.shape) * 0.05 for key, value in state.items()}


@pytest.fixture
def tiny_clip(monkeypatch):
    import open_clip

    monkeypatch.setattr(open_clip, "get_model_config", lambda name: TINY_CLIP if name == "ViT-L-14" else None)
    return open_clip.CLIP(**TINY_CLIP, quick_gelu=True).eval()


def _torchvision(name, size, nodes, **settings):
    """The peers' way: torchvision's network whole, its node, their transforms."""
    torch.manual_seed(0)
    network = models.get_model(name, weights=None, **settings).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as trained ones: neither centred nor of unit variance
            for tensor in (module.running_mean, module.bias.data):
                tensor.uniform_(-0.2, 0.2)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.7, 1.3)
    see = transforms.Compose([transforms.Resize(size), transforms.Normalize(*IMAGENET)])
    with torch.no_grad():
        x = torch.stack([see(image) for image in IMAGES_N3HW])
        return network, create_feature_extractor(network, nodes)(x)


@pytest.mark.filterwarnings("ignore:NOTE")
@pytest.mark.parametrize(
    ("name", "torchvision_name", "size", "nodes", "settings"),
    [
        ("alexnet", "alexnet", 256, LAYERS, {}),
        ("inception", "inception_v3", 342, ("avgpool",), {"init_weights": False, "transform_input": True}),
        ("effnet", "efficientnet_b1", 255, ("avgpool",), {}),
        ("swav", "resnet50", 224, ("avgpool",), {}),
    ],
)
@pytest.mark.slow(part=5)
def test_features_are_those_of_torchvision(tmp_path, name, torchvision_name, size, nodes, settings):
    network, want = _torchvision(torchvision_name, size, list(nodes), **settings)
    state = network.state_dict()
    if name == "swav":  # as published: from several GPUs, with heads of its own and no classifier
        state = {f"module.{key}": value for key, value in state.items() if not key.startswith("fc")}
        state["module.prototypes.weight"] = torch.zeros(3, 128)
    torch.save(state, tmp_path / f"{name}.pth")
    found = load_network(name, tmp_path)
    got = found(IMAGES_N3HW)
    assert found.source["file"] == f"{name}.pth"
    for layer, node in zip(got, nodes, strict=True):
        torch.testing.assert_close(got[layer].flatten(1), want[node].flatten(1), rtol=1e-4, atol=1e-4)


def test_clip_is_the_image_embedding(tmp_path, tiny_clip):
    save_file(tiny_clip.state_dict(), tmp_path / "clip.safetensors")
    see = transforms.Compose([transforms.Resize(224), transforms.Normalize(*OPENAI)])
    with torch.no_grad():
        want = tiny_clip.encode_image(torch.stack([see(image) for image in IMAGES_N3HW]))
    torch.testing.assert_close(load_network("clip", tmp_path)(IMAGES_N3HW)[""], want, rtol=1e-4, atol=1e-5)


def test_clip_from_the_file_that_openai_publishes(tmp_path, tiny_clip):
    """A TorchScript archive in half precision: its tensors are read, its code is not run."""
    root = torch.nn.Module()
    for key, value in tiny_clip.half().state_dict().items():
        *folders, name = key.split(".")
        module = root
        for folder in folders:
            if not hasattr(module, folder):
                module.add_module(folder, torch.nn.Module())
            module = getattr(module, folder)
        module.register_buffer(name, value)
    torch.jit.save(torch.jit.script(root), tmp_path / "clip.pt")
    got = load_network("clip", tmp_path)
    see = NETWORKS["clip"].prepare(IMAGES_N3HW)
    with torch.no_grad():
        want = tiny_clip.float().encode_image(see)
    torch.testing.assert_close(got(IMAGES_N3HW)[""], want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow(part=7)
def test_dino_is_the_class_token(tmp_path):
    import timm

    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=0).eval()
    torch.save(network.state_dict(), tmp_path / "dino.pth")
    see = transforms.Compose(
        [
            transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.Normalize(*IMAGENET),
        ]
    )
    with torch.no_grad():
        want = network.forward_features(torch.stack([see(image) for image in IMAGES_N3HW]))[:, 0]
    torch.testing.assert_close(load_network("dino", tmp_path)(IMAGES_N3HW)[""], want, rtol=1e-4, atol=1e-5)


def test_lpips_is_its_definition(tmp_path):
    channels = (64, 192, 384, 256, 256)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(channels)}
    torch.save(heads, tmp_path / "lpips.pth")
    torch.manual_seed(0)
    torch.save(_alexnet_state(), tmp_path / "alexnet.pth")
    lpips, alexnet = load_network("lpips", tmp_path), load_network("alexnet", tmp_path)
    a, b = torch.rand((2, 2, 3, 256, 256))
    got = lpips(alexnet(a), alexnet(b))
    assert lpips(alexnet(a), alexnet(a)).tolist() == [0.0, 0.0]

    # Slowly: -1..1, LPIPS's own shift and scale, unit length over channels, squared differences, heads, mean.
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    want = torch.zeros(2)
    x, y = (((2 * z - 1) - shift.view(3, 1, 1)) / scale.view(3, 1, 1) for z in (a, b))
    with torch.no_grad():
        for number, layer in enumerate(alexnet.network.features):
            x, y = layer(x), layer(y)
            if f"features.{number}" in LAYERS:
                head = heads[f"lin{LAYERS.index(f'features.{number}')}.model.1.weight"][0]
                unit = [z / (z.norm(dim=1, keepdim=True) + 1e-10) for z in (x, y)]
                want += ((unit[0] - unit[1]) ** 2 * head).sum(dim=1).mean(dim=(1, 2))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_dreamsim_comes_from_its_package(tmp_path, monkeypatch):
    with pytest.raises(HvfError, match="pip install dreamsim"):
        load_network("dreamsim", tmp_path)
    asked = {}

    def dreamsim(**settings):
        asked.update(settings)
        return types.SimpleNamespace(embed=lambda x: x.mean(dim=(2, 3)).squeeze()), None

    monkeypatch.setattr(dreamsim_metric, "find_spec", lambda name: name)
    monkeypatch.setitem(__import__("sys").modules, "dreamsim", types.SimpleNamespace(dreamsim=dreamsim))
    with pytest.raises(HvfError, match="no weights at hand"):
        load_network("dreamsim", tmp_path)
    (tmp_path / "dreamsim").mkdir()
    (tmp_path / "dreamsim" / "ensemble.pth").write_bytes(b"")
    model = load_network("dreamsim", tmp_path)
    assert asked["cache_dir"] == str(tmp_path / "dreamsim")
    assert model(IMAGES_N3HW)[""].shape == (2, 3)
    assert model(IMAGES_N3HW[:1])[""].shape == (1, 3)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("lpips", "dreamsim", "kind-reader")])
def test_what_is_not_at_hand_is_named_with_the_command_that_fetches_it(name):
    with pytest.raises(HvfError) as caught:
        load_network(name)
    said = str(caught.value)
    assert NETWORKS[name].files[0] in said
    assert ("hf download" in said) or (NETWORKS[name].url in said)
    assert "\n" not in said


def test_where_weights_are_looked_for(tmp_path, monkeypatch):
    file = NETWORKS["swav"].files[0]
    cache, own, given = tmp_path / "torch" / "hub" / "checkpoints", tmp_path / "own", tmp_path / "given"
    for folder in (cache, own, given):
        folder.mkdir(parents=True)
        (folder / file).write_bytes(b"")
    assert find_weights("swav") == cache / file
    monkeypatch.setenv("HVF_WEIGHTS", str(own))
    assert find_weights("swav") == own / file
    assert find_weights("swav", given) == given / file
    assert find_weights("swav", {"swav": cache / file}) == cache / file
    with pytest.raises(HvfError, match="no file .*absent.pth"):
        find_weights("swav", {"swav": tmp_path / "absent.pth"})
    with pytest.raises(HvfError, match="no folder of weights"):
        find_weights("swav", tmp_path / "absent")


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(_alexnet_state(), tmp_path / "swav.pth")
    with pytest.raises(HvfError, match="does not hold weights of SwAV"):
        load_network("swav", tmp_path)


def test_a_file_is_what_its_published_name_promises(tmp_path):
    torch.save(_alexnet_state(), tmp_path / NETWORKS["alexnet"].files[0])
    with pytest.raises(HvfError, match="not the published file"):
        load_network("alexnet", tmp_path)


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('the file was executed')",)


@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_damaged_weights_are_refused(tmp_path, content):
    (tmp_path / "swav.pth").write_bytes(content)
    with pytest.raises(HvfError, match=r"swav\.pth does not hold weights"):
        load_network("swav", tmp_path)


def test_weights_are_never_executed(tmp_path):
    torch.save(Malicious(), tmp_path / "swav.pth")
    with pytest.raises(HvfError, match=r"swav\.pth does not hold weights"):
        load_network("swav", tmp_path)


def test_a_misspelt_network():
    with pytest.raises(HvfError, match="alexnet"):
        load_network("alexnett")
