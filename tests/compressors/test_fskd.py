"""FSKD: exact merging, the least squares, one pass against many, residual and foreign networks."""

import pytest
import torch
from conftest import (
    CLASSES,
    MOBILENET,
    RESNET,
    VGG,
    inputs,
    logits,
    make_teacher,
    map_error,
    normal,
    randomise,
    same_state,
    samples,
    small,
    state_of,
    task,
)
from torch import nn

from oefsmc_lib.compressors import chunks, compress, fskd, layerwise, plans, surgery, taps
from oefsmc_lib.errors import InputError
from oefsmc_lib.images.fewshot import Samples
from oefsmc_lib.teacher.networks import Architecture

PLANS = {"vgg16": "half", "resnet20": "all_inner"}
W = torch.ones(CLASSES).double() / CLASSES


def setting(teacher, **changes):
    plan = PLANS.get(teacher.architecture.name, "inner_half")
    return small(**{"method": "fskd", "variant": "native", "plan": plan, **changes})


def run(teacher, few=None, aux=None, w=None, **changes):
    return compress(task(teacher, few or samples(12, teacher.architecture), aux, setting(teacher, **changes), w))


def close(one, other, tolerance=1e-4):
    return all(torch.allclose(one[name], other[name], atol=tolerance) for name in one)


def test_the_plans_counts_are_kept_and_the_teacher_is_not_changed(teacher):
    before = state_of(teacher.model)
    student = run(teacher)
    widths = plans.plan_widths(PLANS[teacher.architecture.name], teacher.model, teacher.architecture)
    assert {name: len(channels) for name, channels in student.structure.kept.items()} == widths
    for name, module in student.model.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.out_channels == widths.get(name, teacher.model.get_submodule(name).out_channels)
    norms = [module for module in student.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == len([module for module in teacher.model.modules() if isinstance(module, nn.BatchNorm2d)])
    assert not student.model.training
    assert same_state(before, state_of(teacher.model)) and not teacher.model.training


@pytest.mark.parametrize("solver, rho", [("ridge", 1e-2), ("ridge", 0), ("minnorm", 0)])
def test_without_pruning_q_is_the_identity(teacher, solver, rho, monkeypatch):
    monkeypatch.setattr(plans, "plan_widths", lambda *_: {})
    # Minimum norm is the identity only on what it has seen, so it gets more rows than channels.
    few = samples(40 if solver == "minnorm" else 3, teacher.architecture)
    student = run(teacher, few, **{"fskd.solver": solver, "fskd.rho": rho})
    assert close(state_of(teacher.model), state_of(student.model), 1e-3 if solver == "minnorm" else 1e-5)


def layer_problem(rows, channels=6):
    """Outputs of a layer in student and teacher, and a convolution to merge into."""
    f_s = normal((rows, channels, 1, 1), "student")
    f_t = f_s + 0.3 * normal((rows, channels, 1, 1), "teacher")
    conv = randomise(nn.Conv2d(4, channels, 3).requires_grad_(False), "merged into")
    return conv, taps.Tap(None, f_s), taps.Tap(None, f_t)


def solve(conv, student, teacher, weights=None, **settings):
    fit = fskd.Fit(conv, None, (None, None), small(**{f"fskd.{k}": v for k, v in settings.items()}).fskd)
    rows = len(student.output)
    fit.add(student, teacher.copied(), torch.full((rows,), 1 / rows) if weights is None else weights)
    return fit.solve()


def test_ridge_without_rho_is_the_released_solution_at_full_column_rank():
    problem = layer_problem(rows=50)
    assert torch.allclose(solve(*problem, solver="ridge", rho=0), solve(*problem, solver="minnorm"), atol=1e-4)


def test_without_full_rank_the_released_solution_forgets_and_ridge_keeps_the_identity():
    conv, student, teacher = layer_problem(rows=3)
    unseen = torch.linalg.svd(student.output[:, :, 0, 0]).Vh[3:]              # directions that no row has
    kept = {name: solve(conv, student, teacher, solver=name[0], rho=name[1]) @ unseen.T
            for name in (("ridge", 0), ("ridge", 1e-2), ("minnorm", 0))}
    assert torch.allclose(kept["ridge", 0], unseen.T, atol=1e-4)
    assert torch.allclose(kept["ridge", 1e-2], unseen.T, atol=1e-4)
    assert float(kept["minnorm", 0].abs().max()) < 1e-4


def test_ridge_is_the_formula():
    conv, student, teacher = layer_problem(rows=20)
    f_s, f_t = student.output[:, :, 0, 0].double(), teacher.output[:, :, 0, 0].double()
    gram = f_s.T @ f_s / 20
    z = torch.linalg.solve(gram + 0.1 * gram.diagonal().mean() * torch.eye(6), f_s.T @ (f_t - f_s) / 20)
    assert torch.allclose(solve(conv, student, teacher, solver="ridge", rho=0.1), (torch.eye(6) + z.T).float(), atol=1e-5)


def test_merging_does_what_the_1x1_convolution_does():
    conv, student, teacher = layer_problem(rows=20)
    fit = fskd.Fit(conv, None, (None, None), small().fskd)
    fit.add(student, teacher, torch.full((20,), 1 / 20))
    x = normal((5, 4, 8, 8), "merging")
    before = conv(x)
    change = fit.finish()
    assert torch.allclose(conv(x), change(x, before), atol=1e-5)
    assert not torch.allclose(conv(x), before, atol=1e-2)


def test_merged_logits_are_those_of_the_network_with_its_1x1_convolutions(teacher, monkeypatch):
    """Invariant 3: the student as it stands against teacher weights with every Q behind its batch norm."""
    queue, solved = [], fskd.Fit.solve

    def keep_q(self):
        queue.append((self.conv, solved(self)))
        return queue[-1][1]
    monkeypatch.setattr(fskd.Fit, "solve", keep_q)
    few = samples(12, teacher.architecture)
    student = run(teacher, few)
    plain = surgery.pruned_copy(teacher, student.structure.kept).model
    names = {module: name for name, module in student.model.named_modules()}
    norms = surgery.trace(plain, teacher.architecture)[1]
    for conv, q in queue:
        plain.get_submodule(norms[names[conv]]).register_forward_hook(
            lambda _m, _x, y, q=q: nn.functional.conv2d(y, q[:, :, None, None]))
    x = inputs(6, teacher.architecture, seed=5)
    expected = logits(plain, x)
    convolutions = [name for name in surgery.weight_layers(plain, teacher.architecture)
                    if isinstance(plain.get_submodule(name), nn.Conv2d)]
    settled = fskd.untouched(convolutions, student.structure.kept)
    assert 0 < len(settled) < len(convolutions) and len(queue) == len(convolutions) - len(settled)
    assert float((logits(student.model, x) - expected).abs().max()) < 1e-4 * max(1, float(expected.abs().max()))


def gain(student, teacher, x):
    """How much of the pruned network's distance to the teacher's last map is left after recovery."""
    bare = surgery.pruned_copy(teacher, student.structure.kept)
    return map_error(student.model, teacher, x) / map_error(bare.model, teacher, x)


def test_the_last_map_comes_closer_to_the_teachers(teacher):
    plan = {"vgg16": "cfg_a"}.get(teacher.architecture.name, "all_inner")
    few = samples(3, teacher.architecture)
    assert gain(run(teacher, few, plan=plan), teacher, few.images) < 0.2
    # Random networks have little in common between images. The last layer of VGG has 64 channels and gives four rows an
    # image, so 192 images determine Q well, and what it does on them it does on others of their kind.
    more = run(teacher, samples(192, teacher.architecture), plan=plan)
    assert gain(more, teacher, inputs(30, teacher.architecture, seed=77)) < 0.8


# --- one pass, many passes, chunks -----------------------------------------------------------------
@pytest.mark.parametrize("solver", ["ridge", "minnorm"])
@pytest.mark.parametrize("name", ["vgg", "resnet", "resnet18"])
def test_one_pass_equals_a_pass_a_layer_equals_chunks(request, name, solver, monkeypatch):
    teacher = make_teacher(Architecture("resnet18", CLASSES, 3, 1.0, 32)) if name == "resnet18" else \
        request.getfixturevalue(name)
    plan = "half" if name == "vgg" else "skip_first"
    few, e = samples(40, teacher.architecture), setting(teacher, plan=plan, **{"fskd.solver": solver, "fskd.rho": 1e-2})
    if name == "resnet18":
        few = samples(6, teacher.architecture)            # fewer rows than channels
    student = compress(task(teacher, few, None, e))
    literal = surgery.pruned_copy(teacher, student.structure.kept)
    fskd.recover(literal, task(teacher, few, None, e), literal_passes=True)
    monkeypatch.setattr(layerwise, "MAP_BYTES", 3 * layerwise.map_bytes(teacher.model, surgery.weight_layers(
        teacher.model, teacher.architecture), few.images))
    in_memory = compress(task(teacher, few, None, e))
    monkeypatch.setattr(chunks, "CARRIED_BYTES", 1)
    in_a_file = compress(task(teacher, few, None, e))
    monkeypatch.setattr(chunks, "chain", lambda *_: [])
    from_the_images = compress(task(teacher, few, None, e))
    x = inputs(8, teacher.architecture, seed=9)
    expected = logits(student.model, x)
    for other in (literal, in_memory, in_a_file, from_the_images):
        difference = float((logits(other.model, x) - expected).abs().max())
        assert difference < (5e-2 if solver == "minnorm" else 2e-3) * float(expected.abs().max())


@pytest.mark.parametrize("name", ["vgg", "resnet", "resnet18", "mobilenet"])
def test_layers_up_to_the_first_pruned_one_have_nothing_to_fit(request, name, monkeypatch):
    """Their inputs and filters are the teacher's: the same maps, Q = I, so that leaving them out changes nothing."""
    teacher = make_teacher(Architecture("resnet18", CLASSES, 3, 1.0, 32)) if name == "resnet18" else \
        request.getfixturevalue(name)
    plan = {"vgg": "half", "mobilenet": "inner_half"}.get(name, "skip_first")
    few, e = samples(6, teacher.architecture), setting(teacher, plan=plan)
    seen, fitted, original = {}, [], fskd.Fit.add

    def add(self, student, theirs, weights):
        seen[id(self.conv)] = float((theirs.output - student.output).abs().max())
        fitted.append(self.conv)
        original(self, student, theirs, weights)
    monkeypatch.setattr(fskd.Fit, "add", add)
    left_out, fewer = compress(task(teacher, few, None, e)), len(fitted)
    monkeypatch.setattr(fskd, "untouched", lambda *_: set())
    fitted.clear()
    whole = compress(task(teacher, few, None, e))
    settled = len(fitted) - fewer
    # Convolutions with fewer filters may add in another order: float32 rounds, a layer behind the pruned one differs.
    assert 0 < settled < len(fitted) / 2 and all(seen[id(conv)] <= 1e-4 for conv in fitted[:settled])
    after = next(conv for conv in fitted[settled:] if conv.groups == 1)       # a depthwise layer mixes nothing yet
    assert seen[id(after)] > 1e-2
    x = inputs(8, teacher.architecture, seed=9)
    torch.testing.assert_close(logits(left_out.model, x), logits(whole.model, x), rtol=1e-3, atol=1e-4)


def test_one_pass_forwards_each_image_once(teacher, count_forwards):
    few = samples(7, teacher.architecture)
    first = surgery.weight_layers(teacher.model, teacher.architecture)[0]
    counts = []
    original = layerwise.walk

    def counted(student, reference, *rest):
        with count_forwards(student.get_submodule(first)) as ours, count_forwards(reference.get_submodule(first)) as theirs:
            original(student, reference, *rest)
        counts.extend([theirs.images, ours.images])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layerwise, "walk", counted)
        run(teacher, few)
    assert counts == [1 + 7, 7]                           # the teacher sees one image for the size of the maps


def test_chunks_are_carried_on_and_do_not_start_from_the_images_again(teacher, monkeypatch, count_forwards):
    few = samples(9, teacher.architecture)
    layers = surgery.weight_layers(teacher.model, teacher.architecture)
    first = teacher.model.get_submodule(layers[0])
    with count_forwards(first) as once:
        run(teacher, few)
    monkeypatch.setattr(layerwise, "MAP_BYTES", 3 * layerwise.map_bytes(teacher.model, layers, few.images))
    with count_forwards(first) as chunked:
        run(teacher, few)
    # each image once more to carry it on, and one image twice to see that the network is a chain of pieces
    assert chunked.images == once.images + 9 + 2


def test_a_network_that_is_no_chain_of_pieces_starts_from_the_images(vgg, monkeypatch):
    image = inputs(1, vgg.architecture)
    assert [name for name, _ in chunks.chain(vgg.model, image)] == [name for name, _ in chunks.segments(vgg.model)]
    monkeypatch.setattr(chunks, "segments", lambda model: list(reversed(list(model.features.named_children())[:3])))
    assert chunks.chain(vgg.model, image) == []        # pieces that do not fit one another
    monkeypatch.setattr(chunks, "segments", lambda model: [("features.0", model.features[0])])
    assert chunks.chain(vgg.model, image) == []        # not up to the last map


def test_no_room_for_carried_maps_is_a_sentence(vgg, monkeypatch):
    few = samples(9, vgg.architecture)
    monkeypatch.setattr(chunks, "CARRIED_BYTES", 1)
    monkeypatch.setattr(layerwise, "MAP_BYTES", 1)

    class Full:
        def seek(self, *_): return 0
        def tell(self): return 0
        def write(self, _): raise OSError(28, "No space left on device")
    monkeypatch.setattr(chunks.tempfile, "TemporaryFile", Full)
    with pytest.raises(InputError, match="No space left on device; make room, or set TMPDIR"):
        run(vgg, few)


# --- eq. 7 -----------------------------------------------------------------------------------------
def test_equal_sets_at_one_half_are_the_pooled_set(teacher):
    few, aux = samples(9, teacher.architecture), samples(9, teacher.architecture, seed=3)
    joint = run(teacher, few, aux, variant="extra_images", lam=0.5)
    pooled = Samples(torch.cat([few.images, aux.images]), torch.cat([few.labels, aux.labels]))
    assert close(state_of(run(teacher, pooled).model), state_of(joint.model))


def test_lam_one_is_the_few_alone_and_never_forwards_the_auxiliary_images(teacher, monkeypatch):
    few, aux = samples(9, teacher.architecture), samples(9, teacher.architecture, seed=3)
    sizes = []
    original = layerwise.walk
    monkeypatch.setattr(layerwise, "walk", lambda s, t, fits, images, *rest: (
        sizes.append(len(images)), original(s, t, fits, images, *rest)))
    base = run(teacher, few)
    assert same_state(state_of(base.model), state_of(run(teacher, few, aux, variant="extra_images", lam=1).model))
    aux_alone = run(teacher, few, aux, variant="extra_images", lam=0)
    assert same_state(state_of(run(teacher, aux).model), state_of(aux_alone.model))
    assert sizes == [9, 9, 9, 9]


def test_set_means_ignore_how_many_auxiliary_images_repeat(teacher):
    few, aux = samples(6, teacher.architecture), samples(4, teacher.architecture, seed=3)
    twice = Samples(torch.cat([aux.images] * 2), torch.cat([aux.labels] * 2))
    one, two = (run(teacher, few, a, variant="extra_images", lam=0.3, **{"fskd.rho": 1e-2}) for a in (aux, twice))
    assert close(state_of(one.model), state_of(two.model), 3e-3)
    pooled = run(teacher, few, twice, variant="extra_images", lam=6 / 14, **{"fskd.rho": 1e-2})
    assert not close(state_of(one.model), state_of(pooled.model), 3e-3)


def test_class_aware_importance_changes_the_channels(teacher):
    few, aux = samples(6, teacher.architecture), samples(6, teacher.architecture, seed=3)
    native, ours = run(teacher, few), run(teacher, few, aux, W, variant="ours")
    assert ours.structure.kept != native.structure.kept
    assert {n: len(c) for n, c in ours.structure.kept.items()} == {n: len(c) for n, c in native.structure.kept.items()}


# --- residual networks -------------------------------------------------------------------------------
def block_outputs(model, x):
    found, handles = {}, []
    for name, module in model.named_modules():
        if taps.shortcut(module) is not None:
            handles.append(module.register_forward_hook(lambda _m, _x, y, name=name: found.__setitem__(name, y.clone())))
    logits(model, x)
    for handle in handles:
        handle.remove()
    return found


def test_the_shortcut_term_brings_block_outputs_closer(resnet, monkeypatch):
    few = samples(40, RESNET)
    with_term = run(resnet, few, **{"fskd.rho": 1e-4})
    monkeypatch.setattr(taps, "blocks_closed_by", lambda *_: {})
    without = run(resnet, few, **{"fskd.rho": 1e-4})
    expected = block_outputs(resnet.model, few.images)
    errors = []
    for student in (with_term, without):
        found = block_outputs(student.model, few.images)
        errors.append(torch.tensor([float((found[name] - expected[name]).square().mean()) for name in expected]))
    assert len(expected) == 9 and bool((errors[0] <= errors[1] * 1.02).all())
    assert float(errors[0][-1]) < 0.9 * float(errors[1][-1])


def test_the_shortcuts_difference_is_what_the_branch_makes_up_for(resnet):
    """A block whose input in the student is off by d gets a target that is off by d the other way."""
    block = resnet.model.layer1[1]
    fit = fskd.Fit(block.conv2, block.bn2, (block, block), small().fskd)
    x, y = normal((2, 8, 4, 4), "around"), normal((2, 8, 4, 4), "output")
    fit.settings = small(**{"fskd.solver": "minnorm"}).fskd
    fit.add(taps.Tap(None, y, x + 1), taps.Tap(None, y, x), torch.full((2,), 1.0))
    seen = fit.rows[0]
    assert torch.allclose(seen[1], torch.full((32, 8), -1.0), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_torchvisions_residual_networks_fit_shortcuts_before_the_blocks_end(name):
    architecture = Architecture(name, CLASSES, 3, 1.0, 32)
    teacher = make_teacher(architecture)
    order = fskd.fitting_order(teacher.model, surgery.weight_layers(teacher.model, architecture))
    last = "conv3" if name == "resnet50" else "conv2"
    assert order.index("layer2.0.downsample.0") == order.index(f"layer2.0.{last}") - 1
    assert sorted(order) == sorted(n for n, m in teacher.model.named_modules() if isinstance(m, nn.Conv2d))
    few = samples(8, architecture)
    student = run(teacher, few, plan="inner_half" if name == "resnet50" else "all_inner")
    assert gain(student, teacher, few.images) < 0.1


def test_mobilenet_v2_is_compressed_with_diagonal_corrections_for_depthwise_layers(mobilenet):
    few = samples(24, MOBILENET)
    student = run(mobilenet, few)
    assert gain(student, mobilenet, few.images) < 0.1
    depthwise = student.model.get_submodule("features.2.conv.1.0")
    assert depthwise.groups == depthwise.out_channels == len(student.structure.kept["features.2.conv.0.0"])
    assert gain(run(mobilenet, few, **{"fskd.solver": "minnorm"}), mobilenet, few.images) < 0.1


# --- refusals ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", ["features.0.weight", "features.4.bias", "features.14.weight"])
def test_nan_in_the_teachers_weights_is_refused(place):
    teacher = make_teacher(VGG)
    dict(teacher.model.named_parameters())[place].view(-1)[0] = float("nan")
    with pytest.raises(InputError, match="not (a )?finite"):
        run(teacher)


def test_a_plan_for_another_network_is_refused(vgg):
    with pytest.raises(InputError, match="'skip_first' is not one for vgg16"):
        run(vgg, plan="skip_first")
