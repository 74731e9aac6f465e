"""Layers of several matrices, tied and shared weights: each equation against torch's plain layer in float64."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from ttq_plugin.core import METHODS, bake, get_method, parameter_groups, ternarize
from ttq_plugin.core.model.matrices import Layout, matrices
from ttq_plugin.core.model.parametrized import AttachedTernary, states
from ttq_plugin.errors import InputError

GRANULARITIES = pytest.mark.parametrize("granularity", ["default", "out_channel"])
X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Wrapped(nn.Module):
    """A layer with a name, called as it wants to be."""

    def __init__(self, layer, call):
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x):
        return self.call(self.layer, x)


def first(layer, x):
    return layer(x)[0]


def attend(layer, x):
    return layer(x, x, x, need_weights=False)[0]


LAYERS = {
    "lstm": (lambda: nn.LSTM(8, 12, 2, batch_first=True, bidirectional=True), first, 8),
    "lstm-projected": (lambda: nn.LSTM(8, 12, proj_size=6, bias=False), first, 3),
    "gru": (lambda: nn.GRU(8, 12, batch_first=True), first, 2),
    "rnn": (lambda: nn.RNN(8, 12, nonlinearity="relu"), first, 2),
    "lstm-cell": (lambda: nn.LSTMCell(8, 12), lambda layer, x: layer(x[0])[0], 2),
    "attention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), attend, 2),
    "attention-of-others": (
        lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=7),
        lambda layer, x: layer(x, x[..., :6], x[..., :7])[0],
        4,
    ),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), lambda layer, x: layer(x), 4),
    "decoder": (lambda: nn.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True), lambda layer, x: layer(x, x), 6),
    "bilinear": (lambda: nn.Bilinear(8, 8, 6), lambda layer, x: layer(x, x.flip(0)), 1),
    "embedding": (lambda: nn.Embedding(9, 8), lambda layer, x: layer((x[..., 0] * 2).long().abs()), 1),
    "embedding-bag": (lambda: nn.EmbeddingBag(9, 8), lambda layer, x: layer((x[..., 0] * 2).long().abs()), 1),
    "transposed": (lambda: nn.ConvTranspose1d(5, 6, 3), lambda layer, x: layer(x), 1),
}
KINDS = pytest.mark.parametrize("kind", LAYERS)


def layer(kind, dtype=torch.float64):
    torch.manual_seed(0)
    make, call, _ = LAYERS[kind]
    return Wrapped(make(), call).to(dtype)


def by_hand(plain, method, granularity, leaves):
    """The plain model's parameters with every matrix replaced by what the method makes of it, part by part."""
    parameters = dict(plain.named_parameters())
    for name, matrix in matrices(plain).items():
        path = matrix.paths[0]
        thirds = granularity == "default" and path.endswith("in_proj_weight")
        own = method if granularity == "default" else method.configure(channel=matrix.layout.channel)
        parts = leaves[path].chunk(3 if thirds else 1)
        made = [own.weights(part, leaves[f"{path}.{i}"]) for i, part in enumerate(parts)]
        parameters[path] = torch.cat(made)
        assert name in {path, path.removesuffix(".weight")}
    return parameters


def leaves_of(plain, method, granularity):
    """Every matrix and what its parts learn, as leaves of their own."""
    leaves = {}
    for matrix in matrices(plain).values():
        path = matrix.paths[0]
        w = matrix.parameter.detach().clone()
        own = method if granularity == "default" else method.configure(channel=matrix.layout.channel)
        for i, part in enumerate(w.chunk(3 if granularity == "default" and path.endswith("in_proj_weight") else 1)):
            params, _ = own.init(part, path)
            own.project_(params)
            leaves[f"{path}.{i}"] = {k: v.clone().requires_grad_(k in own.learnable) for k, v in params.items()}
        leaves[path] = w.requires_grad_()
    return leaves


@pytest.mark.filterwarnings("ignore:.*thresholds lowered")
@GRANULARITIES
@KINDS
def test_values_and_gradients_are_those_of_the_plain_layer_with_ternary_weights(kind, granularity):
    plain = layer(kind)
    with torch.no_grad():  # the few weights of a channel have both signs beyond the thresholds if their mean is 0
        for matrix in matrices(plain).values():
            rest = [dim for dim in range(matrix.parameter.dim()) if dim != matrix.layout.channel]
            matrix.parameter.sub_(matrix.parameter.mean(rest, keepdim=True))
    method = get_method("pttq").configure(t_min=0.4, t_max=0.5, on_empty="clip")
    leaves = leaves_of(plain, method, granularity)
    expected = functional_call(plain, by_hand(plain, method, granularity, leaves), (X,))
    expected.square().sum().backward()
    model = ternarize(copy.deepcopy(plain), ["layer"], method, granularity=granularity)
    assert len(matrices(plain)) == LAYERS[kind][2] and not matrices(model)
    got = model(X)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    got.square().sum().backward()
    for matrix in matrices(plain).values():
        path, _, key = matrix.paths[0].rpartition(".")
        parts = model.get_submodule(path).parametrizations[key]
        torch.testing.assert_close(parts.original.grad, leaves[f"{path}.{key}"].grad, rtol=1e-10, atol=1e-12)
        for i, state in enumerate(states(parts)):
            for name in method.learnable:
                theirs = leaves[f"{path}.{key}.{i}"][name].grad
                torch.testing.assert_close(getattr(state, name).grad, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore:.*thresholds lowered", "ignore:LSTM with projections")
@pytest.mark.parametrize("method", METHODS)
@KINDS
def test_every_method_takes_every_layer(kind, method):
    model = ternarize(layer(kind, torch.float32), ["layer"], method, on_empty="clip")
    optimizer = torch.optim.SGD(parameter_groups(model), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model(X.float()).square().mean().backward()
        optimizer.step()
    baked = bake(model.eval())
    parts = 3 if kind in {"attention", "encoder", "decoder"} else 1
    for path, weight in baked.named_parameters():
        if weight.dim() > 1:
            rows = weight.chunk(parts if path.endswith("in_proj_weight") else 1)
            # The lowest threshold of TTQ leaves some of these few weights no zeros.
            fewest, most = (2, 2) if method == "dorefa" else (2 if method == "ttq" else 3, 3)
            assert all(fewest <= len(row.unique()) <= most for row in rows), path
    with torch.no_grad():
        assert torch.equal(baked.requires_grad_(False)(X.float()), model(X.float()))


# How often, and what is kept -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, training",
    [("lstm", True), ("lstm", False), ("gru", True), ("gru", False), ("attention", True), ("encoder", True)],
)
def test_a_matrix_is_computed_once_in_a_pass(kind, training, monkeypatch):
    model = ternarize(layer(kind), ["layer"]).train(training)
    calls, forward = [], AttachedTernary.forward
    monkeypatch.setattr(AttachedTernary, "forward", lambda self, w: calls.append(self) or forward(self, w))
    model(X)
    assert len(calls) == len(set(calls)) == len(states(model))


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_a_recurrent_layer_keeps_no_graph_and_can_be_moved(kind):
    model = ternarize(layer(kind), ["layer"])
    before = model(X)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(X), before)
    with torch.no_grad():
        for state in states(twin):
            state.scales.mul_(2)
    assert not torch.equal(twin(X), before) and torch.equal(model(X), before)
    moved = copy.deepcopy(model.float())
    torch.testing.assert_close(moved(X.float()), before.float())
    moved.layer.flatten_parameters()
    baked = bake(moved)
    assert all(a is b for a, b in zip(baked.layer._flat_weights, baked.layer.parameters(), strict=True))


def test_an_error_in_a_pass_leaves_the_layer_as_it_was():
    model = ternarize(layer("lstm"), ["layer"])
    before = model(X)
    with pytest.raises(RuntimeError):
        model(X[..., :3])
    assert torch.equal(model(X), before)
    copy.deepcopy(model)


# The fused paths -----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    "kind, op", [("attention", "_native_multi_head_attention"), ("encoder", "_transformer_encoder_layer_fwd")]
)
def test_the_fused_path_sees_ternary_attention(kind, op, monkeypatch):
    model = ternarize(layer(kind, torch.float32), ["layer"]).eval()
    fused, seen = getattr(torch, op), []
    monkeypatch.setattr(torch, op, lambda *args: seen.append(args) or fused(*args))
    fast = model(X.float())
    [args] = seen
    weights = [a for a in args if isinstance(a, torch.Tensor) and a.dim() == 2]
    assert len(weights) == (2 if kind == "attention" else 4)
    assert all(len(third.unique()) == 3 for third in weights[0].chunk(3))
    assert all(len(weight.unique()) == 3 for weight in weights[1:])
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        torch.testing.assert_close(model(X.float()), fast, rtol=1e-5, atol=1e-5)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert len(seen) == 1


def test_attention_compiles_without_a_break():
    torch._dynamo.reset()
    model = ternarize(layer("attention"), ["layer"])
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), model(X), rtol=1e-10, atol=1e-12)


# Names ---------------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8, padding_idx=0)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.mix = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8, bias=False))
        self.again = self.mix
        self.gate = nn.Parameter(torch.randn(8, 8))
        self.head = nn.Linear(8, 20)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x, _ = self.lstm(self.embed(ids))
        return self.head(self.again(x @ self.gate) + self.mix(x))


IDS = torch.arange(20).reshape(4, 5)
ALL = ["embed", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "mix.0", "mix.2"]


def block():
    torch.manual_seed(0)
    return Block()


def changed(model):
    return sorted(key for key, value in block().named_parameters() if not torch.equal(value, model.get_parameter(key)))


@pytest.mark.parametrize(
    "names, expected",
    [
        (["lstm"], ["lstm.weight_hh_l0", "lstm.weight_ih_l0"]),
        (["lstm.weight_hh_l0"], ["lstm.weight_hh_l0"]),
        (["lstm.weight_hh_l0", "lstm"], ["lstm.weight_hh_l0", "lstm.weight_ih_l0"]),
        (["mix"], ["mix.0.weight", "mix.2.weight"]),
        (["again.2"], ["mix.2.weight"]),
        (["again", "mix"], ["mix.0.weight", "mix.2.weight"]),
        (["mix.0.weight", "mix.0"], ["mix.0.weight"]),
        (["head"], ["embed.weight"]),
        (["head.weight", "embed"], ["embed.weight"]),
        (["gate"], ["gate"]),
        ([""], ["embed.weight", "lstm.weight_hh_l0", "lstm.weight_ih_l0", "mix.0.weight", "mix.2.weight"]),
    ],
)
def test_what_a_name_stands_for(names, expected):
    model = bake(ternarize(block(), names))
    assert changed(model) == expected
    assert all(len(model.get_parameter(name).unique()) == 3 for name in expected)


def test_the_list_of_matrices():
    found = matrices(block())
    assert list(found) == ALL
    assert found["embed"].paths == ("embed.weight", "head.weight") and found["embed"].layout == Layout(1)
    assert found["lstm.weight_hh_l0"].layout == Layout(0)
    attention = matrices(nn.MultiheadAttention(8, 2))
    assert {name: matrix.layout for name, matrix in attention.items()} == {
        "in_proj_weight": Layout(0, 3),
        "out_proj": Layout(0),
    }


def test_a_refusal_names_the_matrix():
    with pytest.raises(InputError, match=r"the model's layers are embed, lstm.weight_ih_l0, .*, mix.2.$"):
        ternarize(block(), [])
    model = block()
    model.lstm.weight_hh_l0.requires_grad_(False)
    with pytest.raises(InputError, match="lstm.weight_hh_l0: the weight is frozen"):
        ternarize(model, ["mix", "lstm"])
    attention = nn.ModuleDict({"a": nn.MultiheadAttention(8, 2)})
    with pytest.raises(InputError, match=r"a.in_proj_weight \(key\): the threshold at .* leaves no"):
        with torch.no_grad():
            attention["a"].in_proj_weight[8:16].clamp_(max=0.01)
        ternarize(attention, ["a"], t_min=1.5, t_max=1.5)
    with pytest.raises(InputError, match="lstm: already has a parametrization; bake or remove it first"):
        ternarize(ternarize(block(), ["lstm.weight_ih_l0"]), ["lstm"])
    with pytest.raises(InputError, match="head: already has a parametrization; bake or remove it first"):
        ternarize(ternarize(block(), ["embed"]), ["head"])
    grouped = nn.Sequential(nn.ConvTranspose1d(4, 6, 3, groups=2))
    with pytest.raises(InputError, match="0: granularity out_channel is not possible for a grouped transposed"):
        ternarize(grouped, ["0"], granularity="out_channel")


def test_old_weight_norm_of_a_recurrent_layer_is_refused():
    model = nn.Sequential(nn.LSTM(4, 4))
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model[0], "weight_hh_l0")
    with pytest.raises(InputError, match="0.weight_hh_l0: its weight is not a plain parameter"):
        ternarize(model, ["0"])


# Tied weights --------------------------------------------------------------------------------------------------------


@GRANULARITIES
def test_a_tied_weight_is_one_weight_with_one_state(granularity):
    plain = block()
    model = ternarize(copy.deepcopy(plain), ["head"], granularity=granularity, on_empty="clip", t_min=0.3, t_max=0.3)
    [state] = states(model)
    assert state.scales.numel() == (2 if granularity == "default" else 16)
    assert torch.equal(model.head.weight, model.embed.weight)
    assert not any(key.startswith("head.param") or key == "head.weight" for key in model.state_dict())
    w = plain.embed.weight.detach().clone().requires_grad_()
    own = state.method
    ternary = own.weights(w, {k: v.detach() for k, v in state.params.items()})
    both = {"embed.weight": ternary, "head.weight": ternary}
    functional_call(plain, both, (IDS,)).square().sum().backward()
    model(IDS).square().sum().backward()
    torch.testing.assert_close(model.embed.parametrizations.weight.original.grad, w.grad, rtol=1e-4, atol=1e-5)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        states(twin)[0].scales.mul_(2)
    assert torch.equal(twin.head.weight, twin.embed.weight) and torch.equal(twin.head.weight, 2 * model.head.weight)
    baked = bake(model)
    assert baked.head.weight is baked.embed.weight and type(baked.head) is nn.Linear
    assert list(baked.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in baked.named_parameters()] == [n for n, _ in plain.named_parameters()]
    torch.testing.assert_close(baked(IDS), model(IDS), rtol=1e-5, atol=1e-6)


def test_a_weight_tied_inside_one_layer_and_across_two():
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.LSTM(8, 8, batch_first=True), "b": nn.GRU(8, 8, batch_first=True)}).double()
    model["a"].weight_hh_l0 = model["a"].weight_ih_l0
    model["b"].weight_ih_l0 = model["b"].weight_hh_l0
    plain = copy.deepcopy(model)
    ternarize(model, ["a", "b"])
    assert len(states(model)) == 2
    baked = bake(model)
    for name in "ab":
        assert baked[name].weight_ih_l0 is baked[name].weight_hh_l0
        out = model[name](X)[0]
        torch.testing.assert_close(out, baked[name](X)[0])
        weight = {key: getattr(model[name], key) for key in ("weight_ih_l0", "weight_hh_l0")}
        torch.testing.assert_close(out, functional_call(plain[name], weight, (X,), tie_weights=False)[0])
    assert list(baked.state_dict()) == list(plain.state_dict())


def test_the_padding_row_of_an_embedding_stays_zero():
    model = ternarize(block(), ["embed"])
    optimizer = torch.optim.SGD(parameter_groups(model), lr=0.1)
    F.cross_entropy(model(IDS).flatten(0, 1), IDS.flatten()).backward()
    assert torch.equal(model.embed.weight[0], torch.zeros(8))
    optimizer.step()
    assert torch.equal(bake(model).embed.weight[0], torch.zeros(8)) or bool(model.head.weight[0].any())


def test_transformers_save_and_load_a_tied_model(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "use_cache": False}
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, tie_word_embeddings=True, **shape
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    keys = list(model.state_dict())
    ternarize(model, ["model.layers", "lm_head"])
    model.save_pretrained(tmp_path / "latent")
    baked = bake(model)
    assert list(baked.state_dict()) == keys
    baked.save_pretrained(tmp_path / "baked")
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "baked").eval()
    ids = torch.arange(16).reshape(2, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-6)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight and len(loaded.lm_head.weight.unique()) == 3
