"""Bridges: closed-form 1x1 convolutions over the gaps that PRACTISE leaves in a plain network."""

import copy

import pytest
import torch
from conftest import VGG, inputs, logits, normal, samples, small, task
from torch import nn

from oefsmc_lib.compressors import bridges, compress, plans, practise, surgery
from oefsmc_lib.compressors.taps import Tap
from oefsmc_lib.errors import InputError
from oefsmc_lib.images.fewshot import Samples
from oefsmc_lib.parameters.experiment import Experiment
from oefsmc_lib.teacher.networks import run_pieces, segments


def layers_of(teacher):
    return surgery.weight_layers(teacher.model, teacher.architecture)


def asked(vgg, few=None, aux=None, **changes):
    e = small(method="practise", **{"variant": "native", **changes})
    return task(vgg, few or samples(10, VGG), aux, e)


def last_map(model, x):
    with torch.no_grad():
        return run_pieces(segments(model), x)


def test_a_bridge_merges_exactly_into_the_layer_that_reads_it():
    reader = nn.Conv2d(6, 4, 3, padding=1).requires_grad_(False)
    bridge = bridges.Bridge(copy.deepcopy(reader))
    ours, theirs = normal((3, 6, 5, 5), "ours"), normal((3, 6, 5, 5), "theirs")
    bridge.add(Tap(ours, ours), Tap(theirs, theirs), torch.full((3,), 1 / 3))
    q, x = bridge.solve(), normal((2, 6, 5, 5), "unseen")
    expected = reader(nn.functional.conv2d(x, q[:, :, None, None]))
    assert torch.allclose(bridge.finish()(x, None), expected, atol=1e-5)
    assert not torch.allclose(reader(x), expected, atol=1e-2)


def test_a_bridge_comes_closer_on_what_it_was_fitted_to_than_nothing_does(vgg):
    """A convex problem that holds Q = I, so the fitted one is never worse by more than the ridge."""
    few = samples(10, VGG)
    for unit in practise.droppable(vgg, small(method="practise")):
        bare = copy.deepcopy(vgg.model)
        surgery.drop_units(bare, [unit])
        reader = bridges.readers([unit], layers_of(vgg))[0]
        index = [name for name, _ in segments(vgg.model)].index(reader)
        wanted, without = (run_pieces(segments(net)[:index], few.images.clone()) for net in (vgg.model, bare))
        bridge = bridges.Bridge(surgery.convolution(bare, reader))
        bridge.add(Tap(without, without), Tap(wanted, wanted), torch.full((10,), 0.1))
        across = nn.functional.conv2d(without, bridge.solve()[:, :, None, None])
        assert float((across - wanted).square().mean()) < float((without - wanted).square().mean()), unit


def test_the_last_unit_is_no_candidate_for_its_bridge_would_change_the_head(vgg):
    units, layers = plans.droppable_units(vgg.model), layers_of(vgg)
    assert layers[layers.index(units[-1]) + 1] == "classifier"
    assert practise.droppable(vgg, small(method="practise")) == units[:-1]
    assert practise.droppable(vgg, small(method="practise", practise={"start": "teacher"})) == units


def test_neighbouring_units_share_one_bridge(vgg):
    layers = layers_of(vgg)
    assert bridges.readers(["features.27", "features.30"], layers) == ["features.34"]
    assert bridges.readers(["features.17", "features.27"], layers) == ["features.20", "features.30"]


def test_each_image_is_judged_behind_a_bridge_that_did_not_see_its_fifth(vgg):
    few, unit = samples(10, VGG), "features.17"
    found = bridges.errors(asked(vgg, few), [unit], few.images)[unit]
    for fold in range(bridges.FOLDS):
        inside = torch.arange(10) % bridges.FOLDS == fold
        others = Samples(few.images[~inside], few.labels[~inside])
        model = bridges.bridged(asked(vgg, others), [unit])
        by_hand = (last_map(model, few.images[inside]) - last_map(vgg.model, few.images[inside])).square().flatten(1).mean(1)
        torch.testing.assert_close(found[inside], by_hand, rtol=2e-3, atol=1e-6)


def test_errors_have_a_line_for_each_image_of_d_few_and_d_aux(vgg):
    few, aux = samples(7, VGG), samples(4, VGG, seed=3)
    found = bridges.errors(asked(vgg, few, aux, variant="ours"), ["features.10", "features.27"], few.joined(aux).images)
    assert list(found) == ["features.10", "features.27"] and all(len(e) == 11 and bool((e >= 0).all()) for e in found.values())


def test_practise_starts_behind_bridges_in_vgg_and_says_what_it_kept(vgg):
    few = samples(10, VGG)
    student = compress(asked(vgg, few, **{"practise.stop": "none", "practise.iterations": 3}))
    assert len(student.structure.dropped) == 2 and len(student.notes["loss"]) == student.notes["kept"] == 3
    assert set(student.notes["scores"]) == set(plans.droppable_units(vgg.model)[:-1])
    x = inputs(4, VGG, seed=9)
    assert not torch.allclose(logits(student.model, x), logits(vgg.model, x), atol=1e-3)


def test_bridges_are_refused_where_shortcuts_do_their_work():
    with pytest.raises(InputError, match="use practise.start=teacher"):
        Experiment.parse({"method": "practise", "model": "resnet20", "practise.start": "bridge"})
    assert not Experiment(method="practise", model="resnet32").bridges and Experiment(method="practise").bridges


def test_what_bridges_do_not_read_is_no_part_of_the_key():
    one, other = (Experiment.parse({"method": "practise", "practise.scoring_iterations": n}) for n in (20, 300))
    assert one.key == other.key and one.switches()["practise.start"] == "bridge"
    trained = [Experiment.parse({"method": "practise", "practise.start": "teacher", "practise.scoring_iterations": n})
               for n in (20, 300)]
    assert trained[0].key != trained[1].key
