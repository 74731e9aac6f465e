"""A prescribed share of zeros: met exactly or refused, risen over a training, kept by state dicts and copies."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ttq_plugin import ternarize
from ttq_plugin.core import METHODS, bake, parameter_groups, project_
from ttq_plugin.core.model.course import EVERY, RISING, share_at
from ttq_plugin.core.model.parametrized import members_of, states
from ttq_plugin.core.zeros import move_to_share
from ttq_plugin.errors import InputError

PRESCRIBABLE = [name for name in METHODS if name not in ("dorefa", "pttq-released")]


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 4))


LAYERS = ["0", "2", "4"]


def weights(model: nn.Module, layers: list[str] = LAYERS) -> list[Tensor]:
    return [model.get_submodule(name).weight.detach() for name in layers]


def count(found: list[Tensor]) -> tuple[int, int]:
    return sum(int((w == 0).sum()) for w in found), sum(w.numel() for w in found)


def quietly_baked(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bake(model)


def train(model: nn.Module, steps: int, seed: int = 0) -> torch.optim.Optimizer:
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 12, generator=source)
    y = x[:, :4].argmax(1)
    optimizer = torch.optim.Adamax(parameter_groups(model), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        project_(model)
    return optimizer


@st.composite
def layers(draw: st.DrawFn) -> list[Tensor]:
    """One to four layers of any shape; their values fine, coarse with many ties, of two sizes, or shifted."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
        source = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
        w = torch.randn(shape, generator=source)
        kind = draw(st.sampled_from(["fine", "coarse", "signs", "shifted", "small"]))
        w = {
            "fine": w,
            "coarse": (2 * w).round() / 2,
            "signs": w.sign(),
            "shifted": w + draw(st.floats(-1, 1)),
            "small": 1e-3 * w,
        }[kind]
        found.append(w)
    return found


@settings(max_examples=200, deadline=None)
@given(layers(), st.floats(0.01, 0.999), st.sampled_from(PRESCRIBABLE), st.sampled_from(["default", "out_channel"]))
def test_is_met_to_the_nearest_weight_or_refused(
    found: list[Tensor], zeros: float, method: str, granularity: str
) -> None:
    model = nn.ModuleList(nn.Linear(w.shape[1], w.shape[0]) for w in found)
    for layer, w in zip(model, found, strict=True):
        layer.weight = nn.Parameter(w.clone())
    names = [str(i) for i in range(len(found))]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        ternarize(model, names, method, zeros=zeros, granularity=granularity)
    except InputError as error:
        assert str(error).endswith(".")
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        return
    made = [layer.weight.detach() for layer in quietly_baked(model)]
    got, n = count(made)
    assert got == round(zeros * n)
    for w in made:
        rows = w if granularity == "out_channel" else w.reshape(1, -1)
        assert bool((rows > 0).any(dim=1).all()), "a sign is empty"
        assert bool((rows < 0).any(dim=1).all()), "a sign is empty"


@pytest.mark.parametrize("method", PRESCRIBABLE)
@pytest.mark.parametrize("zeros", [0.4, 0.75, 0.9, 0.97])
def test_a_training_ends_with_it(method: str, zeros: float) -> None:
    zeros = min(zeros, 0.93) if method == "pttq-global" else zeros  # uniform layers are as wide as that
    model = ternarize(net(), LAYERS, method, zeros=zeros, zeros_steps=60)
    train(model, 60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = bake(model)
    got, n = count(weights(plain))
    assert got == round(zeros * n)
    assert all(bool((w > 0).any()) and bool((w < 0).any()) for w in weights(plain))


def test_rises_over_the_training() -> None:
    model = ternarize(net(), LAYERS, zeros=0.9, zeros_steps=100)
    shares = []
    for _ in range(10):
        train(model, EVERY)
        got, n = count(weights(model))
        shares.append(got / n)
    expected = [share_at(0.9, (i + 1) * EVERY / 100) for i in range(10)]
    assert shares == pytest.approx(expected, abs=1e-3)
    assert expected[-1] == 0.9
    assert expected[0] < 0.8


def test_share_at_is_a_cube_that_ends_early() -> None:
    assert share_at(0.9, 0.0) == 0.5
    assert share_at(0.9, RISING / 2) == pytest.approx(0.5 + 0.4 * (1 - 0.125))
    assert share_at(0.9, RISING) == share_at(0.9, 1.0) == 0.9
    assert share_at(0.3, 0.0) == share_at(0.3, 1.0) == 0.3


@pytest.mark.parametrize(("method", "per"), [("pttq", 1.0), ("attq", 1.0), ("ttq", 1.0)])
def test_all_layers_move_by_the_same_number_of_units(method: str, per: float) -> None:
    model = ternarize(net(), LAYERS, method, zeros=0.8)
    starts = [state.thresholds.detach().clone() for state in states(model)]
    found = [
        m
        for name in LAYERS
        for m in members_of(
            name,
            model.get_submodule(name).parametrizations.weight[0],
            model.get_submodule(name).parametrizations.weight.original,
        )
    ]
    move_to_share(found, 0.7)
    moved = [(state.thresholds - start).abs() for state, start in zip(states(model), starts, strict=True)]
    assert moved[0].min() > 0.01
    for change in moved:
        assert torch.allclose(change, per * moved[0][0].expand_as(change), atol=1e-5)


def test_what_thresholds_learned_is_kept_between_layers() -> None:
    model = ternarize(net(), LAYERS, zeros=0.8)
    first, second, _ = states(model)
    before = second.thresholds.detach() - first.thresholds.detach()
    with torch.no_grad():
        second.thresholds += 0.3
    project = [project_(model) for _ in range(EVERY)]
    assert len(project) == EVERY
    assert torch.allclose(second.thresholds - first.thresholds, before + 0.3, atol=1e-4)


def test_a_sampled_shift_comes_near() -> None:
    torch.manual_seed(1)
    model = ternarize(nn.Sequential(nn.Linear(700, 400), nn.Linear(400, 900)), ["0", "1"], zeros=0.9, zeros_steps=1)
    for _ in range(EVERY):
        project_(model)
    got, n = count(weights(model, ["0", "1"]))
    assert abs(got / n - 0.9) < 0.004
    got, n = count(weights(quietly_baked(model), ["0", "1"]))
    assert got == round(0.9 * n)


def test_equal_weights_are_parted_at_the_end_only() -> None:
    model = nn.Sequential(nn.Linear(50, 20))
    with torch.no_grad():
        model[0].weight.copy_((torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) * 2).round() / 4)
    ternarize(model, ["0"], zeros=0.77)
    latent = model[0].parametrizations.weight.original
    before = latent.detach().clone()
    plain = quietly_baked(model)
    assert count(weights(plain, ["0"])) == (770, 1000)
    assert torch.equal(latent, before)


def test_one_threshold_for_both_signs_comes_up_to_the_lesser_peak() -> None:
    model = nn.Sequential(nn.Linear(9, 1))
    values = [0.5213, -1.0229, 0.7527, 0.6681, -0.3894, -0.4108, 0.1067, 0.1457, -1.2813]
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([values]))
    plain = quietly_baked(ternarize(model, ["0"], "ttq", zeros=0.625))
    assert plain[0].weight.sign().tolist() == [[0, -1, 1, 0, 0, 0, 0, 0, -1]]


def test_parts_of_attention_and_recurrent_matrices_count_too() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"lstm": nn.LSTM(8, 12), "attention": nn.MultiheadAttention(8, 2)})
    ternarize(model, ["lstm", "attention"], method="pttq", zeros=0.9)
    plain = quietly_baked(model)
    found = [p for p in plain.parameters() if p.dim() == 2]
    assert count(found)[0] == round(0.9 * count(found)[1])
    for part in plain["attention"].in_proj_weight.chunk(3):
        assert bool((part > 0).any())
        assert bool((part < 0).any())


def test_gradient_accumulation_counts_steps_of_the_optimizer() -> None:
    model = ternarize(net(), LAYERS, zeros=0.9, zeros_steps=20)
    x = torch.randn(16, 12)
    optimizer = torch.optim.SGD(parameter_groups(model), lr=1e-3)
    for _ in range(20):
        for part in x.split(4):
            model(part).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        project_(model)
    got, n = count(weights(model))
    assert abs(got / n - 0.9) < 1e-3


def test_layers_that_train_late_are_counted_from_the_start() -> None:
    model = ternarize(net(), LAYERS, zeros=0.85, zeros_steps=40)
    for name in ("2", "4"):
        model.get_submodule(name).requires_grad_(False)
    train(model, 20)
    model.requires_grad_(True)
    train(model, 20)
    got, n = count(weights(bake(model)))
    assert got == round(0.85 * n)


def test_goes_on_from_a_state_dict_bit_for_bit() -> None:
    def stage(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        x = torch.randn(32, 12, generator=torch.Generator().manual_seed(3))
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(x), x[:, :4].argmax(1)).backward()
            optimizer.step()
            project_(model)

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = ternarize(net(), LAYERS, zeros=0.9, zeros_steps=50)
        return model, torch.optim.Adam(parameter_groups(model), lr=1e-2)

    whole, optimizer = fresh()
    stage(whole, optimizer, 23)
    kept = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    stage(whole, optimizer, 27)
    resumed, optimizer = fresh()
    resumed.load_state_dict(kept[0])
    optimizer.load_state_dict(kept[1])
    stage(resumed, optimizer, 27)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_copy_rises_by_itself() -> None:
    model = ternarize(net(), LAYERS, zeros=0.9, zeros_steps=10)
    other = copy.deepcopy(model)
    for _ in range(10):
        project_(other)
    got, n = count(weights(other))
    assert abs(got / n - 0.9) < 1e-3
    got, n = count(weights(model))
    assert abs(got / n - 0.5) < 1e-3


def test_a_training_that_ends_early_is_told() -> None:
    model = ternarize(net(), LAYERS, zeros=0.9, zeros_steps=1000)
    train(model, 20)
    with pytest.warns(UserWarning, match=r"zeros had risen only to 5.*% when the training ended after 20 steps"):
        plain = bake(model)
    got, n = count(weights(plain))
    assert got == round(0.9 * n)


def test_two_calls_have_shares_of_their_own() -> None:
    model = ternarize(net(), ["0"], zeros=0.6)
    ternarize(model, ["2", "4"], zeros=0.9)
    plain = quietly_baked(model)
    assert count(weights(plain, ["0"]))[0] == round(0.6 * 480)
    got, n = count(weights(plain, ["2", "4"]))
    assert got == round(0.9 * n)


def test_thresholds_have_the_same_rate_as_free_ones() -> None:
    def rate(**options: float) -> float:
        return parameter_groups(ternarize(net(), LAYERS, **options))[2]["lr"]

    assert rate(zeros=0.9) == rate() == 1e-4


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("pttq", {"zeros": 1.0}, r"^zeros must lie in \(0, 1\), got 1; 0.9 makes nine of ten weights zero\.$"),
        ("pttq", {"zeros": -0.5}, r"^zeros must lie in \(0, 1\), got -0.5"),
        ("pttq", {"zeros": "0.9"}, r"^zeros must be a number, got '0.9'\.$"),
        ("pttq", {"zeros": 0.9, "t_min": 1.0}, r"^zeros determines the thresholds, so t_min cannot be given"),
        ("ttq", {"zeros": 0.9, "t": 0.1}, r"so t cannot be given with it; leave one of them out\.$"),
        (
            "dorefa",
            {"zeros": 0.9},
            r"^dorefa cannot meet a share of zeros, because its weights are never zero; use pttq",
        ),
        ("pttq-released", {"zeros": 0.9}, r"^pttq-released cannot meet a share of zeros"),
        ("pttq", {"zeros_steps": 5}, r"^zeros_steps requires zeros"),
        ("pttq", {"zeros": 0.9, "zeros_steps": 0}, r"^zeros_steps must be a whole number of at least 1, got 0\.$"),
        (
            "pttq",
            {"zeros": 0.999},
            r"^zeros must be at most 0.9966 here, because each sign of each layer keeps one weight",
        ),
    ],
)
def test_refuses(method: str, options: dict[str, object], message: str) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=message):
        ternarize(model, LAYERS, method, **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_limit_that_a_refusal_names_is_met() -> None:
    model = nn.Sequential(nn.Linear(200, 300))  # all but two of 60 000, a share that four digits would round to 1
    with pytest.raises(InputError) as told:
        ternarize(model, ["0"], "ttq", zeros=1 - 1e-9)
    assert "zeros must be at most 0.9999 here" in str(told.value) and "got 0.999999999;" in str(told.value)
    ternarize(model, ["0"], "ttq", zeros=0.9999)


def test_refuses_a_part_of_the_model() -> None:
    model = nn.Sequential(net(), net(1))
    ternarize(model, ["0", "1"], zeros=0.9)
    with pytest.raises(InputError, match=r"counted over the 6 matrices of one call of ternarize, got 3 of them"):
        bake(model[0])
