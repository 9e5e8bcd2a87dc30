"""The grammar of feature specs: what parses, to what, and what is refused in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hvf.config import HvfError
from hvf.vision.specs import FeatureSpec, parse_spec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("openclip:mini-resnet", FeatureSpec("openclip", "mini-resnet")),
        ("openclip:ViT-H-14/laion2b_s32b_b79k", FeatureSpec("openclip", "ViT-H-14", "laion2b_s32b_b79k")),
        ("openclip:ViT-B-32/tag@11:mean", FeatureSpec("openclip", "ViT-B-32", "tag", "11", "mean")),
        ("openclip:ViT-B-32//w/clip.safetensors@3", FeatureSpec("openclip", "ViT-B-32", "/w/clip.safetensors", "3")),
        ("openclip:./clips/mine@layer3:grid2", FeatureSpec("openclip", "./clips/mine", None, "layer3", "grid2")),
        ("openclip:/a:b@c/folder@2:cls", FeatureSpec("openclip", "/a:b@c/folder", None, "2", "cls")),
        ("vae:mini", FeatureSpec("vae", "mini")),
        ("vae:sdxl@256", FeatureSpec("vae", "sdxl", size=256)),
        ("vae:madebyollin/taesdxl@112:grid4", FeatureSpec("vae", "madebyollin/taesdxl", pool="grid4", size=112)),
        (
            "timm:vit//w/dino.safetensors@5@168px:grid4",
            FeatureSpec("timm", "vit", "/w/dino.safetensors", "5", "grid4", None, 168),
        ),
        ("transformers:./a@b/folder@168px", FeatureSpec("transformers", "./a@b/folder", size=168)),
        ("openclip:mini-vit@2@96px:mean~blur9", FeatureSpec("openclip", "mini-vit", None, "2", "mean", "blur9", 96)),
        (
            "torchvision:squeezenet1_0//w/s.npz@features.9:grid2",
            FeatureSpec("torchvision", "squeezenet1_0", "/w/s.npz", "features.9", "grid2"),
        ),
    ],
)
def test_specs_parse_and_their_text_parses_back(text, spec):
    assert parse_spec(text) == spec
    assert str(spec) == text
    assert parse_spec(spec) is spec


def test_two_spellings_of_one_feature_have_one_text():
    assert str(parse_spec("vae:mini:flat")) == "vae:mini"
    assert str(parse_spec("vae:sdxl@112px:grid4")) == "vae:sdxl@112:grid4"
    assert str(parse_spec("timm:vit/w.pt@168px@5:grid4")) == "timm:vit/w.pt@5@168px:grid4"
    assert str(parse_spec(" vae:/models/vae/ ")) == "vae:/models/vae"
    assert str(parse_spec("torchvision:squeezenet1_0/s.npz@9")) == "torchvision:squeezenet1_0/s.npz@features.9"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("openclp:mini-vit", "did you mean 'openclip'"),
        ("mini-vit", "unknown kind"),
        ("openclip", "no model is named"),
        ("vae:", "no model is named"),
        ("vae:mini:men", "did you mean 'mean'"),
        ("vae:mini:grid0", "unknown pool"),
        ("vae:mini:cls", "no class token"),
        ("vae:mini@big", "input size in pixels"),
        ("vae:mini@3@64", "one layer and one size"),
        ("timm:vit/w.pt@5@6", "one layer and one size"),
        ("timm:vit/w.pt@168px@224px", "one layer and one size"),
        ("timm:vit/w.pt@0px", "0 px: is not a size"),
        ("vae:mini@0", "0 px: is not a size"),
        ("timm:vit/w.pt@5@", "nothing follows '@'"),
        ("dreamsim:synclr_vitb16@224px", "dreamsim has no size to choose"),
        ("glocal:ViT-L-14/w.npz@336px", "glocal has no size to choose"),
        ("openclip:mini-vit:mean", "name a layer"),
        ("openclip:mini-vit@", "nothing follows '@'"),
        ("openclip:mini-vit@3:", "nothing follows ':'"),
    ],
)
def test_a_bad_spec_is_refused_in_one_line(text, says):
    with pytest.raises(HvfError, match=says) as refusal:
        parse_spec(text)
    assert "\n" not in str(refusal.value)


def test_parsing_imports_no_model_library():
    heavy = "torch", "open_clip", "diffusers", "torchvision"
    code = f"import sys, hvf.vision; hvf.vision.parse_spec('vae:mini'); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
