"""Gates over layers, layers of channels and the MMD, of decoders of several people."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hvf import alignment
from hvf.alignment import Alignment, TrainingSet
from hvf.alignment.batched import fit_together, why_not_batched
from hvf.alignment.distribution import mmd
from hvf.config import HvfError, with_settings
from hvf.data.trials.trials import Trials
from hvf.decoding.artefact import Artefact
from hvf.decoding.card import model_card
from hvf.models.brain.person_layer import PeopleLayers, PersonLayer
from hvf.models.fusions.routed import Routed
from tests.alignment import test_batched
from tests.alignment.test_adapting import CONCEPTS, FEATURES, MIXING, C, N, config, people, top1, trials
from tests.alignment.test_fitting import settings

EARLY, LATE = "torchvision:squeezenet1_0/DEFAULT@3:mean", "torchvision:squeezenet1_0/DEFAULT@12:mean"


def layers_of_people() -> TrainingSet:
    """Two people of one recording, of whom one answers to the early layer, the other to the late one."""
    rng = np.random.default_rng(3)
    features = {spec: rng.standard_normal((N, 6)).astype(np.float32) for spec in (EARLY, LATE)}
    field = rng.standard_normal((6, C * 3))
    each = []
    for person, spec in enumerate((EARLY, LATE)):
        x_NCT = (features[spec] @ field).reshape(N, C, 3) + 0.3 * rng.standard_normal((N, C, 3))
        each.append(trials(np.eye(C), person).replace(x_NCT=x_NCT))
    rows, person_N = np.tile(np.arange(N), 2), np.repeat([0, 1], N)
    return TrainingSet(
        Trials.concatenate(each), features, CONCEPTS, rows, person_N=person_N, people=("early", "late")
    )  # fmt: skip


def of_layers(**changes: object):
    return config(**{"targets__specs": (EARLY, LATE), "fusion__kind": "routed", "align__epochs": 8} | changes)


@pytest.fixture(scope="module")
def routed() -> Alignment:
    return alignment.fit(layers_of_people(), of_layers())


def test_each_persons_gate_finds_the_layer_that_they_answer_to(routed, tmp_path):
    gates_SK = routed.hvf.gates_SK
    assert gates_SK[0, 0] > 0.9
    assert gates_SK[1, 1] > 0.9
    assert routed.people == ("early", "late")
    torch.testing.assert_close(routed.hvf.offset_SK.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    expected_K = (-routed.hvf.ETA * routed.hvf.regret_K).softmax(0)
    torch.testing.assert_close(routed.hvf.gate, expected_K)
    alike = alignment.fit(layers_of_people(), of_layers(fusion__kind="gated")).hvf.gate
    assert min(alike[0], alike[1]) < 0.5  # a control: one gate for both is wrong for one of them
    routed.save(tmp_path)
    again = Alignment.load(tmp_path)
    assert again.people == routed.people
    torch.testing.assert_close(again.hvf.gates_SK, gates_SK)


def test_a_gallery_is_fused_by_the_gate_of_the_person_asked_for(routed, tmp_path):
    data = layers_of_people()
    own = trials(np.eye(C), 1).replace(x_NCT=data.trials.load_array()[N:])
    late, new = alignment.on_person(routed, own, "late"), alignment.on_person(routed, own)
    assert (late.person, new.person) == ("late", None)
    torch.testing.assert_close(late.hvf.gate, routed.hvf.gates_SK[1])
    torch.testing.assert_close(new.hvf.gate, routed.hvf.gate)  # whoever was not trained on: the shared gate
    np.testing.assert_array_equal(new.embed_images(data.features), routed.embed_images(data.features))
    assert not np.allclose(late.embed_images(data.features), new.embed_images(data.features))
    late.save(tmp_path)
    again = Alignment.load(tmp_path)
    assert (again.people, again.person) == (("early", "late"), "late")
    np.testing.assert_array_equal(again.embed_images(data.features), late.embed_images(data.features))
    assert "- 2 people: early, late; gate over layers: late's own" in model_card(Artefact(again))
    assert "gate over layers: the mean of all people's" in model_card(Artefact(new))
    with pytest.raises(HvfError, match="nobody is not among the people .*: early, late"):
        alignment.on_person(routed, own, "nobody")
    with pytest.raises(HvfError, match="moved to late already"):
        alignment.on_person(late, own, "early")
    adapted = alignment.adapt(
        routed, replace(data.select(np.arange(N, N + 60)), person_N=None, people=()), of_layers(adapt__epochs=2)
    )
    assert adapted.hvf.offset_SK.shape == (1, 2)


def test_of_one_person_a_routed_fusion_is_a_gated_one():
    data = layers_of_people().select(np.arange(N))
    one, other = (alignment.fit(data, of_layers(align__epochs=4, fusion__kind=kind)) for kind in ("routed", "gated"))
    assert one.history == other.history
    torch.testing.assert_close(one.hvf.gate, other.hvf.gate, atol=0, rtol=0)
    np.testing.assert_array_equal(one.embed_images(data.features), other.embed_images(data.features))
    both = alignment.fit(layers_of_people(), of_layers(align__epochs=4, fusion__kind="gated"))
    routed = alignment.fit(layers_of_people(), of_layers(align__epochs=4))
    assert both.history != routed.history  # a control: of two people it is another


def test_a_person_with_nothing_to_contrast_keeps_the_offset():
    fusion = Routed({EARLY: 3, LATE: 3}, width=4)
    fusion.for_people(3)
    fusion.weigh(torch.tensor([[1.0, 3.0], [3.0, 3.0], [torch.nan, torch.nan]]))
    torch.testing.assert_close(fusion.regret_K, torch.tensor([2.0, 3.0]))
    torch.testing.assert_close(fusion.offset_SK, torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
    fusion.weigh(torch.full((3, 2), torch.nan))
    torch.testing.assert_close(fusion.regret_K, torch.tensor([2.0, 3.0]))


def test_layers_of_people_undo_a_mixing_of_channels(tmp_path):
    data = replace(people(np.eye(C), MIXING), people=("plain", "mixed"))
    fitted, alike = (alignment.fit(data, config(brain__person_layer=layer)) for layer in (True, False))
    assert fitted.best["validation_mrr"] > alike.best["validation_mrr"]
    layers = fitted.brain
    assert isinstance(layers, PeopleLayers)
    torch.testing.assert_close(layers.maps_SCC.mean(0), torch.eye(C), atol=1e-5, rtol=0)
    mixed = trials(MIXING, seed=1)
    own = alignment.on_person(fitted, mixed, "mixed")
    assert isinstance(own.brain, PersonLayer)
    torch.testing.assert_close(own.brain.start_CC, layers.maps_SCC[1])
    assert top1(own, mixed) > top1(alignment.on_person(fitted, mixed), mixed)
    expected = layers(torch.from_numpy(mixed.load_array())[:8], torch.ones(8, dtype=torch.long))
    torch.testing.assert_close(own.brain(torch.from_numpy(mixed.load_array())[:8]), expected)
    fitted.save(tmp_path)
    np.testing.assert_array_equal(Alignment.load(tmp_path).embed_brain(mixed), fitted.embed_brain(mixed))
    own.save(tmp_path)
    np.testing.assert_array_equal(Alignment.load(tmp_path).embed_brain(mixed), own.embed_brain(mixed))


def test_layers_of_people_come_after_euclidean_alignment():
    data = replace(people(np.eye(C), MIXING), people=("plain", "mixed"))
    fitted = alignment.fit(data, config(align__epochs=2, brain__person_layer=True, brain__people="euclidean"))
    mixed = trials(MIXING, seed=1)
    own, new = alignment.on_person(fitted, mixed, "mixed"), alignment.on_person(fitted, mixed)
    torch.testing.assert_close(own.brain.start_CC, fitted.brain.maps_SCC[1] @ new.brain.start_CC)


def samples(shift: float, seed: int, n: int = 200, d: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_ND, y_ND = torch.randn(2, n, d, generator=generator)
    return x_ND, y_ND + shift


def test_mmd_is_0_of_one_distribution_and_grows_with_a_shift():
    same = [float(mmd(*samples(0.0, seed))) for seed in range(40)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(40) < 2e-3  # unbiased
    assert min(same) < 0
    small, large = (np.mean([float(mmd(*samples(shift, seed))) for seed in range(5)]) for shift in (0.3, 1.0))
    assert 5 * np.std(same) < small < large


def test_mmd_by_hand_and_without_pairs_of_one_image():
    x_ND, y_ND = samples(0.5, 0, n=6)
    image_N = torch.tensor([0, 1, 2, 3, 4, 4])
    unit = [z / z.norm(dim=1, keepdim=True) for z in (x_ND, y_ND)]
    apart = [(i, j) for i in range(6) for j in range(6) if image_N[i] != image_N[j]]
    squared = [
        [float((a[i] - b[j]).square().sum()) for i, j in apart]
        for a, b in zip(unit + unit[:1], unit + unit[1:], strict=True)
    ]
    scale = np.mean(squared)
    kernel = [np.mean([np.exp(-np.array(d) / (w * scale)) for w in (0.25, 0.5, 1, 2, 4)]) for d in squared]
    assert float(mmd(x_ND, y_ND, image_N)) == pytest.approx(kernel[0] + kernel[1] - 2 * kernel[2], abs=1e-5)


def test_the_gradient_of_mmd_pulls_two_samples_together():
    x_ND, y_ND = samples(1.0, 0)
    x_ND = x_ND.requires_grad_()
    before = mmd(x_ND, y_ND).item()
    for _ in range(20):
        (gradient,) = torch.autograd.grad(mmd(x_ND, y_ND), x_ND)
        x_ND = (x_ND - 100 * gradient).detach().requires_grad_()
    assert mmd(x_ND, y_ND).item() < 0.3 * before


def test_mmd_alone_matches_distributions_and_then_the_contrast_goes_on():
    data = people(np.eye(C), MIXING)
    fitted = alignment.fit(data, config(align__mmd_weight=1.0, align__mmd_epochs=3, align__epochs=15))
    losses = [entry["loss"] for entry in fitted.history]
    assert max(losses[:3]) < 0.5 < min(losses[3:5])  # MMD is below 2; InfoNCE starts at log 64
    assert fitted.history[2]["temperature"] == pytest.approx(0.07)  # nothing was contrasted yet
    assert fitted.best["validation_mrr"] > 3 * fitted.history[2]["validation_mrr"]


def test_runs_with_mmd_trained_at_once_are_those_trained_alone():
    changes = test_batched.QUIET | {"align__mmd_weight": 0.5, "align__mmd_epochs": 2}
    runs = [test_batched.a_run(0, 0, **changes), test_batched.a_run(1, 3, **changes)]
    for run, ours in zip(runs, fit_together(runs), strict=True):
        test_batched.assert_same(ours, test_batched.alone(run), run[0].trials)
    plain = test_batched.alone(test_batched.a_run(0, 0, **test_batched.QUIET))
    assert plain.history[0]["loss"] != pytest.approx(test_batched.alone(runs[0]).history[0]["loss"], rel=1e-2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"align.mmd_weight": 0.5, "align.epochs": 5}, "align.mmd_epochs must be fewer than align.epochs, 5, not 5"),
        ({"align.mmd_weight": 0.5, "brain.encoder": "ridge"}, "align.mmd_weight is learnt from step by step: ridge"),
        (
            {"brain.person_layer": True, "brain.encoder": "encoding"},
            "brain.person_layer is learnt from step by step: enc",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes, reason):
    with pytest.raises(HvfError, match=reason):
        with_settings(settings(), changes)


def test_one_person_has_no_layer_and_people_have_names():
    data = people(np.eye(C), MIXING)
    with pytest.raises(HvfError, match="person_layer needs trials of several people"):
        alignment.fit(data.select(np.arange(N)), config(brain__person_layer=True))
    assert data.people_trained_on()[0] == ("person 0", "person 1")
    names, place_N = replace(data, person_N=data.person_N + 2, people=tuple("abcd")).people_trained_on()
    assert names == ("c", "d")
    np.testing.assert_array_equal(place_N, data.person_N)
    with pytest.raises(HvfError, match="person_N names person 1 .* people are 1"):
        replace(data, people=("a",))
    assert "belong to those of one run" in (why_not_batched(settings(brain__person_layer=True)) or "")
    assert "validation losses" in (why_not_batched(settings(fusion__kind="routed")) or "")
    assert FEATURES.shape[0] == N
