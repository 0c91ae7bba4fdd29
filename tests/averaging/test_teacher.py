"""Claims about the averaged model, most against an offline average of the stored trajectory."""

import copy
import json
import math
import warnings

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.reference import averages
from tests.reference.averages import offline_average
from tracerft.averaging import (
    EMATeacher,
    FrozenTeacher,
    Teacher,
    WMATeacher,
    beta_kernel,
    exponential_kernel,
    frozen_kernel,
    uniform_kernel,
)
from tracerft.errors import ArgumentError, StateError, TeacherClockError

STEPS = 200
KERNELS = {
    "beta(.5,.5)": (beta_kernel(0.5, 0.5), lambda f, w: averages.beta_log_weights(0.5, 0.5, STEPS, f, w)),
    "beta(2,3)": (beta_kernel(2, 3), lambda f, w: averages.beta_log_weights(2, 3, STEPS, f, w)),
    "beta(80,80)": (beta_kernel(80, 80), lambda f, w: averages.beta_log_weights(80, 80, STEPS, f, w)),
    "uniform": (uniform_kernel(), lambda f, w: averages.beta_log_weights(1, 1, STEPS, f, w)),
    "ema(.9)": (exponential_kernel(0.9), lambda f, w: averages.exponential_log_weights(0.9, STEPS, f, w)),
    "ema(.999)": (exponential_kernel(0.999), lambda f, w: averages.exponential_log_weights(0.999, STEPS, f, w)),
    "frozen": (frozen_kernel(), lambda f, w: averages.frozen_log_weights(STEPS, f, w)),
}


class Vector(nn.Module):
    """One parameter; the smallest student there is."""

    def __init__(self, values):
        super().__init__()
        self.w = nn.Parameter(values.clone())

    def forward(self, x):
        """Scale ``x`` (N, D) by the parameter."""
        return x * self.w


class Tower(nn.Module):
    """Linear layers, BatchNorm, a tied weight, a mask, and both encoder methods."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.second.weight = self.first.weight
        self.register_buffer("mask", torch.full((2, 2), -math.inf).triu(1), persistent=False)
        self.register_buffer("kept_mask", torch.full((2, 2), -math.inf).triu(1))
        self.register_buffer("seen", torch.tensor([False, False]))

    def forward(self, x):
        """Map (N, 4) to (N, 4)."""
        return self.norm(self.second(self.first(x)))

    encode_image = encode_text = forward


def trajectory(dtype=torch.float64):
    """A random walk of STEPS + 1 vectors whose values float32 holds exactly."""
    generator = torch.Generator().manual_seed(0)
    walk = torch.randn(STEPS + 1, 6, generator=generator, dtype=torch.float64).cumsum(0) / 4 + 3
    return list(walk.float().to(dtype))


def make_tower(seed=0):
    """A tower with random weights; no global generator is touched."""
    model = Tower()
    shake(model, seed)
    return model


def shake(model, seed):
    """Stand in for an optimiser step: new values for every floating parameter and statistic."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for buffer in (model.norm.running_mean, model.norm.running_var):
            buffer.copy_(torch.rand(buffer.shape, generator=generator))
        model.norm.num_batches_tracked.fill_(seed)


def quiet(make, *args, **kwargs):
    """Build a teacher whose warning about the pretrained share is not the point of the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return make(*args, **kwargs)


def snapshot(module):
    """Copies of all tensors by name, the extra state left out."""
    return {n: t.clone() for n, t in module.state_dict().items() if torch.is_tensor(t)}


@pytest.mark.parametrize("weighting", ["point", "mass"])
@pytest.mark.parametrize("update_every", [1, 3, 7])
@pytest.mark.parametrize("kernel_name", KERNELS)
def test_running_average_is_the_offline_average_after_every_step(kernel_name, update_every, weighting):
    """Def. 3.3 from the stored trajectory: 1e-12 in float64, 1e-6 relative in float32; the share as well."""
    kernel, reference = KERNELS[kernel_name]
    log_weights, states = reference(update_every, weighting), trajectory()
    students = [Vector(states[0]), Vector(states[0].float())]
    teachers = [quiet(WMATeacher, student, STEPS, kernel, update_every, weighting) for student in students]
    expected, share = offline_average(states, log_weights, 0)
    for step in range(1, STEPS + 1):
        for student, teacher in zip(students, teachers, strict=True):
            student.w.data.copy_(states[step])
            teacher.update(student)
        if step in log_weights:
            expected, share = offline_average(states, log_weights, step)
        wide, narrow = (teacher.averaged.w.double() for teacher in teachers)
        assert (wide - expected).abs().max() <= 1e-12 * expected.abs().max()
        assert (narrow - expected).abs().max() <= 1e-6 * expected.abs().max()
        assert teachers[0].pretrained_weight == pytest.approx(share, rel=1e-10, abs=1e-300)
    assert teachers[0].final_pretrained_weight == pytest.approx(share, rel=1e-10, abs=1e-300)
    assert teachers[0].steps == STEPS


def test_uniform_kernel_is_the_running_mean_of_torch():
    """AveragedModel copies its first state, so it is fed theta_0 first."""
    states = trajectory()
    student = Vector(states[0])
    teacher, oracle = WMATeacher(student, STEPS, uniform_kernel()), AveragedModel(student)
    oracle.update_parameters(student)
    for state in states[1:]:
        student.w.data.copy_(state)
        teacher.update(student)
        oracle.update_parameters(student)
        torch.testing.assert_close(teacher.averaged.w, oracle.module.w, rtol=1e-12, atol=0)


def test_ema_is_the_plain_recursion_without_a_known_end():
    """W = rho W + (1 - rho) theta from W = theta_0, no total_steps needed."""
    states = trajectory()
    student, expected = Vector(states[0]), states[0].clone()
    teacher = EMATeacher(student, 0.95)
    for step, state in enumerate(states[1:], start=1):
        student.w.data.copy_(state)
        teacher.update(student)
        expected = 0.95 * expected + 0.05 * state
        torch.testing.assert_close(teacher.averaged.w.detach(), expected, rtol=1e-12, atol=0)
        assert teacher.pretrained_weight == pytest.approx(0.95**step, rel=1e-12)
    assert teacher.final_pretrained_weight == 0


def test_momentum_zero_is_the_latest_student_and_saves():
    """The share is exactly 0 and its infinite logarithm still goes through JSON."""
    states = trajectory()
    student = Vector(states[0])
    teacher = EMATeacher(student, 0.0)
    student.w.data.copy_(states[1])
    teacher.update(student)
    assert torch.equal(teacher.averaged.w, student.w)
    assert teacher.pretrained_weight == 0
    teacher.set_extra_state(json.loads(json.dumps(teacher.get_extra_state(), allow_nan=False)))
    teacher.update(student)
    assert teacher.pretrained_weight == 0


@pytest.mark.parametrize("kernel", [beta_kernel(0.5, 0.5), uniform_kernel(), exponential_kernel(0.9)])
def test_first_update_keeps_the_pretrained_state(kernel):
    """Algorithm 1 as printed would give omega_1 = 1 and a share of 0."""
    states = trajectory()
    student = Vector(states[0])
    teacher = WMATeacher(student, STEPS, kernel)
    assert teacher.pretrained_weight == 1
    student.w.data.copy_(states[1])
    teacher.update(student)
    assert 0.3 < teacher.pretrained_weight < 1
    assert not torch.equal(teacher.averaged.w, student.w)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_student_is_averaged_in_float32(dtype):
    """The teacher equals the offline average of what the student held, not of rounded averages."""
    states = [state.to(dtype) for state in trajectory()]
    student = Vector(states[0])
    teacher = WMATeacher(student, STEPS)
    for state in states[1:]:
        student.w.data.copy_(state)
        teacher.update(student)
    expected, _ = offline_average(states, averages.beta_log_weights(0.5, 0.5, STEPS, 1, "point"), STEPS)
    assert teacher.averaged.w.dtype == torch.float32
    assert (teacher.averaged.w.double() - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert teacher(torch.ones(2, 6, dtype=dtype)).dtype == torch.float32
    assert student.w.dtype == dtype


def test_teacher_refuses_sixteen_bits_and_accepts_wider():
    """The error names the cure in one line and nothing is converted, also through a parent module."""
    teacher = WMATeacher(make_tower(), STEPS)
    parent = nn.ModuleList([teacher])
    for convert in (lambda: teacher.to(torch.bfloat16), teacher.half, teacher.bfloat16, parent.half):
        with pytest.raises(ArgumentError, match=r"float32 or wider.*convert the student alone"):
            convert()
    assert teacher.to("cpu").averaged.first.weight.dtype == torch.float32
    assert teacher.double().averaged.first.weight.dtype == torch.float64


def test_buffers_follow_the_policy():
    """Integer, boolean, masked and non-persistent buffers are copied; statistics are averaged or copied."""
    for policy in ("average", "copy"):
        model = make_tower()
        old = model.norm.running_mean.clone()
        teacher = WMATeacher(model, STEPS, uniform_kernel(), buffers=policy)
        shake(model, 7)
        model.seen.fill_(True)
        teacher.update(model)
        new = model.norm.running_mean
        torch.testing.assert_close(teacher.averaged.norm.running_mean, (old + new) / 2 if policy == "average" else new)
        assert teacher.averaged.norm.num_batches_tracked == 7
        assert teacher.averaged.seen.all()
        assert torch.equal(teacher.averaged.mask, model.mask)
        assert torch.equal(teacher.averaged.kept_mask, model.kept_mask)


def test_frozen_teacher_never_changes():
    """Not even integer buffers; the pretrained state keeps its whole share."""
    model = make_tower()
    teacher = FrozenTeacher(model)
    before = snapshot(teacher)
    for seed in range(1, 4):
        shake(model, seed)
        teacher.update(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(teacher).items())
    assert (teacher.steps, teacher.pretrained_weight, teacher.final_pretrained_weight) == (3, 1, 1)


def test_tied_weights_move_once():
    """A tied tensor stays tied and gets one step of the average, not two."""
    model = make_tower()
    old = model.first.weight.detach().clone()
    teacher = WMATeacher(model, STEPS, uniform_kernel())
    shake(model, 5)
    teacher.update(model)
    assert teacher.averaged.first.weight is teacher.averaged.second.weight
    torch.testing.assert_close(teacher.averaged.first.weight.detach(), (old + model.first.weight.detach()) / 2)


def test_trainable_only_shares_frozen_tensors_and_leaves_them_out_of_the_state():
    """Frozen tensors are the student's own objects; loading works without them."""
    model = make_tower()
    model.first.weight.requires_grad_(False)
    teacher = WMATeacher(model, STEPS, trainable_only=True)
    assert teacher.averaged.first.weight is model.first.weight
    assert teacher.averaged.second.weight is model.first.weight
    assert teacher.averaged.first.bias is not model.first.bias
    shake(model, 5)
    teacher.update(model)
    state = copy.deepcopy(teacher.state_dict())
    assert not {"averaged.first.weight", "averaged.second.weight"} & state.keys()
    assert "averaged.first.bias" in state
    fresh = WMATeacher(model, STEPS, trainable_only=True)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.averaged.first.bias, teacher.averaged.first.bias)
    nn.ModuleList([fresh]).load_state_dict({f"0.{name}": value for name, value in state.items()})


def test_trainable_only_equals_averaging_everything():
    """Frozen tensors do not move, so both teachers answer alike."""
    model = make_tower()
    model.second.bias.requires_grad_(False)
    both = [WMATeacher(model, STEPS, trainable_only=flag) for flag in (True, False)]
    for seed in range(1, 6):
        shake(model, seed)
        for teacher in both:
            teacher.update(model)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(both[0](x), both[1](x))


def test_converting_the_teacher_leaves_the_student_alone():
    """Shared frozen tensors become the teacher's own before they change dtype."""
    model = make_tower()
    model.first.weight.requires_grad_(False)
    teacher = WMATeacher(model, STEPS, trainable_only=True).double()
    assert model.first.weight.dtype == torch.float32
    assert teacher.averaged.first.weight is teacher.averaged.second.weight
    assert teacher(torch.ones(2, 4)).dtype == torch.float64


def test_frozen_sixteen_bit_tensors_are_copied_wide():
    """A bfloat16 backbone cannot be shared with a float32 teacher."""
    model = make_tower().bfloat16()
    model.first.weight.requires_grad_(False)
    teacher = WMATeacher(model, STEPS, trainable_only=True)
    assert teacher.averaged.first.weight.dtype == torch.float32
    assert model.first.weight.dtype == torch.bfloat16


def test_unfreezing_a_shared_tensor_is_refused():
    """Otherwise the teacher would silently follow the student there."""
    model = make_tower()
    model.first.weight.requires_grad_(False)
    teacher = WMATeacher(model, STEPS, trainable_only=True)
    model.first.weight.requires_grad_(True)
    with pytest.raises(StateError, match=r"'first\.weight' was frozen .* trains now"):
        teacher.update(model)
    with pytest.raises(ArgumentError, match="`trainable_only` needs a parameter"):
        WMATeacher(make_tower().requires_grad_(False), STEPS, trainable_only=True)


def test_teacher_is_in_eval_mode_without_gradients():
    """`train()` changes nothing, no output has a graph, the student's mode and tensors are its own."""
    model = make_tower().train()
    teacher = WMATeacher(model, STEPS).train()
    teacher.averaged.train()
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    for output in (teacher(x), teacher.encode_image(x), teacher.encode_text(x=x)):
        assert not output.requires_grad
        assert torch.equal(output, copy.deepcopy(model).eval()(x))
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not {t.data_ptr() for t in teacher.parameters()} & {t.data_ptr() for t in model.parameters()}


def test_missing_encoder_is_said_clearly():
    """A plain module can be averaged and called, but has no towers."""
    with pytest.raises(ArgumentError, match="`encode_image` is not offered by Vector"):
        WMATeacher(Vector(torch.ones(2)), STEPS).encode_image(torch.ones(1, 2))


def test_interrupted_run_equals_unbroken_run():
    """Perturb, load into a fresh teacher, go on: equal to the bit, through JSON for what is no tensor."""
    students, whole = [make_tower(), make_tower()], None
    whole, part = (WMATeacher(student, 20) for student in students)
    for seed in range(1, 9):
        for student, teacher in zip(students, (whole, part), strict=True):
            shake(student, seed)
            teacher.update(student)
    state = copy.deepcopy(part.state_dict())
    state["_extra_state"] = json.loads(json.dumps(state["_extra_state"], allow_nan=False))
    fresh = WMATeacher(make_tower(99), 20)
    fresh.update(make_tower(98))
    fresh.load_state_dict(state)
    assert (fresh.steps, fresh.pretrained_weight) == (8, whole.pretrained_weight)
    for seed in range(9, 21):
        shake(students[0], seed)
        whole.update(students[0])
        fresh.update(students[0])
    expected = snapshot(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in snapshot(fresh).items())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda m: WMATeacher(m, 20, beta_kernel(2, 3)), "kernel="),
        (lambda m: WMATeacher(m, 20, exponential_kernel(0.9)), "kernel="),
        (lambda m: WMATeacher(m, 21), "total_steps=20 but this one has total_steps=21"),
        (lambda m: quiet(WMATeacher, m, 20, update_every=2), "update_every=1 but this one has update_every=2"),
        (lambda m: WMATeacher(m, 20, weighting="mass"), "weighting='point' but this one has weighting='mass'"),
        (lambda m: WMATeacher(m, 20, buffers="copy"), "buffers='average' but this one has buffers='copy'"),
    ],
)
def test_state_of_another_average_is_refused(make, words):
    """Both values are named and no tensor has been touched."""
    other = make(make_tower(3))
    before = snapshot(other)
    with pytest.raises(StateError, match=words):
        other.load_state_dict(WMATeacher(make_tower(), 20).state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(other).items())


def test_more_updates_than_steps_are_refused():
    """The error names both numbers and the cure; the average stays as it was."""
    student = Vector(torch.ones(2))
    teacher = WMATeacher(student, 3)
    for _ in range(3):
        teacher.update(student)
    for _ in range(2):
        with pytest.raises(
            TeacherClockError,
            match=r"^update\(\) called 4 times but total_steps=3; pass total_steps=epochs \* len\(loader\)$",
        ):
            teacher.update(student)
    assert teacher.steps == 3


def test_clock_counts_optimiser_steps_when_updates_are_rarer():
    """With f = 3 the teacher moves at 3, 6, 9 of 10 steps only, and an eleventh call is refused."""
    student = Vector(torch.zeros(1, dtype=torch.float64))
    teacher = quiet(WMATeacher, student, 10, update_every=3)
    moved = []
    for step in range(1, 11):
        before = teacher.averaged.w.clone()
        student.w.data.fill_(step)
        teacher.update(student)
        if not torch.equal(before, teacher.averaged.w):
            moved.append(step)
    assert moved == [3, 6, 9]
    with pytest.raises(TeacherClockError):
        teacher.update(student)


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda m: nn.ModuleDict({"module": m}), r"'module\.first\.weight'.*pass model\.module"),
        (lambda m: nn.ModuleDict({"_orig_mod": m}), r"'_orig_mod\.first\.weight'.*model\._orig_mod"),
        (lambda m: m.first, r"has a parameter 'weight' that the teacher lacks"),
    ],
)
def test_student_with_other_names_is_refused_at_the_first_call(wrap, words):
    """Also when the first update is many steps away; the clock does not advance."""
    model = make_tower()
    teacher = WMATeacher(model, STEPS, update_every=50, weighting="mass")
    with pytest.raises(StateError, match=words):
        teacher.update(wrap(model))
    assert teacher.steps == 0


def test_missing_names_and_other_shapes_are_refused():
    """The first offender is named with both shapes."""
    teacher = WMATeacher(make_tower(), STEPS)
    smaller, other = make_tower(), make_tower()
    del smaller.norm
    other.first.bias = nn.Parameter(torch.zeros(5))
    with pytest.raises(StateError, match=r"lacks 'norm\.weight'"):
        teacher.update(smaller)
    with pytest.raises(StateError, match=r"'first\.bias' has shape \(4,\) in the teacher but \(5,\)"):
        teacher.update(other)
    with pytest.raises(ArgumentError, match=r"`model` must be a torch\.nn\.Module; got dict"):
        teacher.update({})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"total_steps": 0}, r"`total_steps` .* got 0; pass total_steps=epochs \* len\(loader\)"),
        ({"total_steps": 2.5}, r"`total_steps` .* got 2\.5"),
        ({"total_steps": None}, "`total_steps` must be known"),
        ({"total_steps": 5, "update_every": 0}, "`update_every` .* got 0"),
        ({"total_steps": 5, "weighting": "masses"}, "`weighting` .*did you mean 'mass'"),
        ({"total_steps": 5, "buffers": "averaged"}, "`buffers` .*did you mean 'average'"),
        ({"total_steps": 5, "kernel": "beta"}, "`kernel` must be a kernel; got 'beta'"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, words):
    """Argument, expectation, what came, cure."""
    with pytest.raises(ArgumentError, match=words) as caught:
        WMATeacher(Vector(torch.ones(2)), **arguments)
    assert "\n" not in str(caught.value)
    with pytest.raises(ArgumentError, match=r"`model` must be a torch\.nn\.Module"):
        WMATeacher({}, 5)


def test_rare_point_updates_warn_and_name_mass():
    """The share is said in per cent (56.7 % from the restated paper, section 7); mass does not warn."""
    student = Vector(torch.ones(2))
    with pytest.warns(UserWarning, match=r"keeps 56\.7% .*weighting='mass' leaves it 6\.4%") as caught:
        WMATeacher(student, 25_020, update_every=500)
    assert caught[0].filename == __file__
    WMATeacher(student, 25_020, update_every=10)
    WMATeacher(student, 25_020, update_every=500, weighting="mass")
    EMATeacher(student, update_every=500)


def test_teacher_that_never_updates_warns():
    """More steps between updates than there are steps."""
    with pytest.warns(UserWarning, match="`update_every`=6 exceeds total_steps=5, so the teacher never moves"):
        teacher = WMATeacher(Vector(torch.ones(2)), 5, update_every=6)
    assert teacher.final_pretrained_weight == 1


def test_teacher_can_be_copied():
    """A deep copy goes on by itself."""
    student = Vector(torch.zeros(2))
    teacher = WMATeacher(student, 5)
    twin = copy.deepcopy(teacher)
    student.w.data.fill_(1)
    twin.update(student)
    assert isinstance(twin, Teacher)
    assert (teacher.steps, twin.steps) == (0, 1)
    assert teacher.averaged.w.sum() == 0
