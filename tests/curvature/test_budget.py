"""Budgets of all four kinds: the choice against brute force over the model's own numbers, and what cannot be asked."""

import itertools
import math
import random

import pytest
import torch
from torch import nn

from ttq_plugin.curvature import Budget, LayerTrace, generate_config, select
from ttq_plugin.errors import InputError
from ttq_plugin.measures import EnergyModel

METHODS = ("pttq", "int4", "dorefa")
ENERGY = EnergyModel(mult_add=3e-12, transfer=2e-9)


def network(seed, layers):
    """Linear layers of many sizes, one after another, and traces over many orders of magnitude, some negative."""
    r = random.Random(seed)
    torch.manual_seed(seed)
    sizes = [r.choice([2, 3, 7, 12, 20]) for _ in range(layers + 1)]
    model = nn.Sequential(*[nn.Linear(a, b) for a, b in itertools.pairwise(sizes)])
    scale = r.choice([1e-9, 1.0, 1e6])
    traces = []
    for name, module in model.named_children():
        trace = r.choice([1, 1, 1, 1, 0, -1]) * scale * 10 ** r.uniform(-4, 1)
        if r.random() < 0.3 and traces:
            trace = traces[-1].trace_per_weight * module.weight.numel()  # ties in curvature
        traces.append(LayerTrace(name, "Linear", module.weight.numel(), trace, 0.1 * abs(trace), 8))
    return model, traces, torch.randn(2, sizes[0])


def combinations(model, traces, asked):
    """Every choice: (share, bits, joules, sum of Omegas), each method's cost from a choice of that method alone."""
    total = sum(trace.weights for trace in traces)
    names = [trace.name for trace in traces]
    table = []
    for trace in traces:
        rows = [(0.0, 0.0, 0.0, 0.0)]
        for method in asked["methods"]:
            others = [name for name in names if name != trace.name]
            one = select(model, traces, 1.0, **asked | {"methods": (method,), "exclude": others})
            omega = max(trace.trace / trace.weights * one.rows[0].chosen.distance, 0.0)
            rows.append((trace.weights / total, one.bits - one.bits_fp32, one.energy - one.energy_fp32, omega))
        table.append(rows)
    for picks in itertools.product(*table):
        share, bits, energy, omega = (math.fsum(column) for column in zip(*picks, strict=True))
        yield {"share": share, "bits": one.bits_fp32 + bits, "energy": one.energy_fp32 + energy, "sensitivity": omega}


@pytest.mark.parametrize("kind", ["share", "bits", "energy", "sensitivity"])
@pytest.mark.parametrize(("seed", "layers"), [(0, 4), (1, 5), (2, 3), (3, 5), (4, 1), (5, 4), (6, 2), (7, 10)])
def test_no_choice_within_the_budget_is_better(seed, layers, kind):
    model, traces, x = network(seed, layers)
    asked = {"methods": METHODS if layers < 8 else METHODS[:2], "energy_model": ENERGY, "example_input": x}
    every = list(combinations(model, traces, asked))
    found = sorted(choice[kind] for choice in every if kind != "share" or choice["share"] > 0)
    r = random.Random(seed)
    goal, tie = ("bits", "sensitivity") if kind == "sensitivity" else ("sensitivity", "bits")
    for limit in (found[0], found[-1], *r.sample(found, 2)):
        # The sums above are rounded, the budget is exact: a last digit more, or less, for room.
        room = {"share": 1 - 1e-13, "bits": 1.0}.get(kind, 1 + 1e-13)
        choice = select(model, traces, Budget(**{kind: limit * room}), **asked)
        inside = [c for c in every if (c[kind] >= limit - 1e-9 if kind == "share" else c[kind] <= limit * (1 + 1e-11))]
        best = min(c[goal] for c in inside)
        assert choice.gap == 0
        within = getattr(choice, kind)
        assert within >= limit - 1e-12 if kind == "share" else within <= limit * (1 + 1e-11)
        assert getattr(choice, goal) == pytest.approx(best, rel=1e-8, abs=1e-300)
        assert getattr(choice, tie) <= min(c[tie] for c in inside if c[goal] <= best * (1 + 1e-10)) * (1 + 1e-8)


def test_a_choice_is_what_its_own_cost_buys():
    """A budget of exactly what was spent gives a choice that is as good: limits are met, not undercut."""
    model, traces, x = network(3, 6)
    asked = {"methods": METHODS, "energy_model": ENERGY, "example_input": x}
    for share in (0.3, 0.6, 0.9):
        one = select(model, traces, share, **asked)
        for budget in (Budget(bits=one.bits), Budget(energy=one.energy)):
            assert select(model, traces, budget, **asked).sensitivity <= one.sensitivity
        assert select(model, traces, Budget(sensitivity=one.sensitivity), **asked).bits <= one.bits


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": 0}, r"`budget` must lie in \(0, 1\], got 0"),
        ({"share": 1.01}, r"`budget` must lie in \(0, 1\], got 1.01"),
        ({"share": float("nan")}, r"`budget` must lie in \(0, 1\], got nan"),
        ({"bits": -5}, "`budget` must be a finite number of bits of the stored model, at least 0; got -5"),
        ({"bits": float("inf")}, "must be a finite number of bits"),
        ({"energy": float("nan")}, "must be a finite number of joules per sample, at least 0; got nan"),
        ({"sensitivity": -1e-3}, "must be a finite number of units of the loss, at least 0; got -0.001"),
        ({}, "must set one of share, bits, energy and sensitivity, got none of them"),
        ({"share": 0.5, "bits": 100}, "must set one of share, bits, energy and sensitivity, got share and bits"),
        ({"bits": "1 MB"}, "must be a number of bits, got '1 MB'"),
        ({"share": True}, "must be a number of share, got True"),
    ],
)
def test_budgets_out_of_range(fields, message):
    with pytest.raises(InputError, match=message):
        Budget(**fields)


@pytest.mark.parametrize(
    ("value", "message"), [(0, r"\(0, 1\]"), (2, r"\(0, 1\]"), ("0.5", "got '0.5'"), (None, "None")]
)
def test_a_wrong_budget_is_refused_before_any_curvature(value, message):
    model, *_ = network(0, 2)
    with pytest.raises(InputError, match=message):
        generate_config(model, None, None, value)


def smallest(error):
    """The number after "the smallest possible is"."""
    return float(str(error.value).split("the smallest possible is ")[1].split(" ")[0])


@pytest.mark.parametrize("kind", ["bits", "energy", "sensitivity"])
def test_a_budget_that_cannot_be_met_says_what_can(kind):
    model, traces, x = network(0, 4)
    asked = {"methods": METHODS, "energy_model": ENERGY, "example_input": x, "include": ["1"]}
    with pytest.raises(
        InputError, match=rf"`budget` cannot be met: .*\({Budget(**{kind: 1}).unit}\), .*1 included; got"
    ) as error:
        select(model, traces, Budget(**{kind: 1e-300}), **asked)
    possible = smallest(error)
    assert select(model, traces, Budget(**{kind: possible}), **asked).layers
    with pytest.raises(InputError, match="cannot be met"):
        select(model, traces, Budget(**{kind: possible * (1 - 2e-3)}), **asked)


@pytest.mark.parametrize("kind", ["bits", "energy"])
def test_what_cannot_be_met_is_said_before_any_curvature(kind):
    model, _, x = network(0, 4)

    def loss(*_):
        raise AssertionError("called")

    with pytest.raises(InputError, match="`budget` cannot be met: the smallest possible is"):
        generate_config(model, loss, [(x, x)], Budget(**{kind: 1e-12}))


def test_an_energy_budget_takes_the_first_batch_as_example():
    model, _, x = network(0, 3)
    y = torch.randint(0, 2, (2,))
    batches = [(x, y), (x, y)]
    budget = Budget(energy=1e-7)
    loss = nn.CrossEntropyLoss()
    found = generate_config(model, loss, batches, budget, max_probes=2)
    assert found.energy <= 1e-7 < found.energy_fp32
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=2)
    for same in (iter(batches), (x, y), loader):
        again = generate_config(model, loss, same, budget, max_probes=2)
        assert (again.energy, again.energy_fp32) == (found.energy, found.energy_fp32)
    with pytest.raises(InputError, match="An energy budget needs an `example_input`"):
        select(model, found.traces, budget)
    with pytest.raises(InputError, match="`batches` must hold at least one pair"):
        generate_config(model, loss, [], budget)


def test_a_budget_met_in_full_precision_quantises_nothing_and_says_so():
    model, traces, _ = network(1, 3)
    traces = [LayerTrace(t.name, t.type, t.weights, abs(t.trace) + 1, 0.1, 8) for t in traces]
    selection = select(model, traces, Budget(bits=10**9))
    assert selection.layers == () and selection.chain == () and selection.config_list == []
    assert selection.bits == selection.bits_fp32 and selection.sensitivity == 0
    assert any("nothing is quantised" in note for note in selection.notes)
