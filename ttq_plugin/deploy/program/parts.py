"""Operations over many numbers as steps: sums, norms, pooling, attention, recurrent layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ttq_plugin.deploy.program.builder import Builder, Operation
from ttq_plugin.deploy.program.folding import STATISTICS, fixed, folded
from ttq_plugin.deploy.program.geometry import pair
from ttq_plugin.deploy.program.operators import kind_of
from ttq_plugin.deploy.program.steps import Step, View

LOWEST = torch.finfo(torch.float32).min


def reduction(what: str) -> Operation:
    """Sum, mean or maximum over some dimensions, or over all."""

    def step(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
        source = build.value(given["self"])
        dims = given.get("dim")
        dims = list(range(source.meta.dim())) if dims is None or dims == [] else dims
        return _reduced(build, source, [dims] if isinstance(dims, int) else dims, what, node)

    return step


def _reduced(build: Builder, source: View, dims: list[int], what: str, like: Any) -> View:
    gone = {dim % source.meta.dim() for dim in dims}
    output = build.new(like)
    build.steps.append(Step("reduce", output, [source], {"what": what, "dims": gone}))
    return output


def _kept(shape: torch.Size, dims: list[int]) -> list[int]:
    gone = {dim % len(shape) for dim in dims}
    return [1 if dim in gone else size for dim, size in enumerate(shape)]


def softmax(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """exp(x - max) over its sum."""
    source, dims = build.value(given["self"]), [given["dim"]]
    kept = _kept(source.meta.shape, dims)
    largest = _reduced(build, source, dims, "LARGEST", kept)
    result = build.map("SUBTRACT", [source, largest])
    if kind_of(node) == "log_softmax":
        total = _reduced(build, build.map("EXP", [result]), dims, "SUM", kept)
        return build.map("SUBTRACT", [result, build.map("LOG", [total], into=total)], into=result)
    build.map("EXP", [result], into=result)
    return build.map("DIVIDE", [result, _reduced(build, result, dims, "SUM", kept)], into=result)


def layer_norm(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Over the last dimensions."""
    source, output = build.packed(build.value(given["input"])), build.new(node)
    constants = {"weight": build.name_of(given["weight"]), "bias": build.name_of(given["bias"])}
    width = torch.Size(given["normalized_shape"]).numel()
    build.steps.append(Step("normalise", output, [source], {**constants, "width": width, "eps": given["eps"]}))
    return output


def group_norm(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Each group's numbers are a row; then factors and terms of each channel."""
    source, output = build.packed(build.value(given["input"])), build.new(node)
    width = source.meta.numel() // given["num_groups"]
    more = {"weight": None, "bias": None, "width": width, "eps": given["eps"]}
    build.steps.append(Step("normalise", output, [source], more))
    return _affine(build, output, given["weight"], given["bias"])


def instance_norm(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Normalise each channel of a sample: as many groups as channels."""
    if not given["use_input_stats"]:
        raise build.missing(node, "an instance_norm with running statistics")
    return group_norm(build, node, {**given, "num_groups": node.meta["val"].shape[1]})


def largest(build: Builder, node: fx.Node, given: dict[str, Any]) -> Any:
    """The maximum over a dimension, without its places, or of all numbers."""
    if "other" in given:
        return build.map("MAXIMUM", [build.value(given["self"]), build.value(given["other"])])
    if "dim" not in given:
        return reduction("LARGEST")(build, node, given)
    source = build.value(given["self"])
    return [_reduced(build, source, [given["dim"]], "LARGEST", node.meta["val"][0].shape), None]


def _affine(build: Builder, output: View, weight: Any, bias: Any) -> View:
    shape = [-1, *[1] * (output.meta.dim() - 2)]
    for what, constant in (("MULTIPLY", weight), ("ADD", bias)):
        if constant is not None:
            view = build.value(constant)
            build.map(what, [output, View(view.buffer, view.meta.view(shape))], into=output)
    return output


def batch_norm(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """One that follows no convolution: a factor and a term for each channel."""
    if not fixed(given):
        raise build.missing(node, kind_of(node))
    names = {part: build.name_of(given[part]) for part in STATISTICS}
    norm: dict[str, Any] = {part: build.tensors[name] if name else None for part, name in names.items()}
    gain, shift = folded(None, {**norm, "eps": given["eps"]}, node.meta["val"].shape[1])
    source = build.value(given["input"])
    shape = [-1, *[1] * (source.meta.dim() - 2)]
    factor = build.constant(f"{node.name} gain", gain.float().reshape(shape))
    output = build.map("MULTIPLY", [source, factor])
    return build.map("ADD", [output, build.constant(f"{node.name} shift", shift.float().reshape(shape))], into=output)


def rms_norm(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Numbers over the root of their mean square."""
    source = build.value(given["input"])
    dims = list(range(-len(given["normalized_shape"]), 0))
    eps = given["eps"] if given["eps"] is not None else torch.finfo(torch.float32).eps
    mean = _reduced(build, build.map("MULTIPLY", [source, source]), dims, "MEAN", _kept(source.meta.shape, dims))
    build.map("ADD", [mean, build.value(eps)], into=mean)
    output = build.map("MULTIPLY", [source, build.map("RSQRT", [mean], into=mean)])
    if given["weight"] is None:
        return output
    return build.map("MULTIPLY", [output, build.value(given["weight"])], into=output)


def pool(build: Builder, node: fx.Node, given: dict[str, Any]) -> Any:
    """Maximum or mean over windows, of given sizes or in a given number."""
    kind = kind_of(node)
    source, several = build.value(given["self"]), isinstance(node.meta["val"], tuple | list)
    shape = (node.meta["val"][0] if several else node.meta["val"]).shape
    one, adaptive = "1d" in kind, kind.startswith("adaptive")
    image = source.meta.unsqueeze(-2) if one else source.meta
    if source.meta.dim() != (3 if one else 4) or given.get("divisor_override"):
        raise build.missing(node, kind)
    more: dict[str, Any] = {
        "adaptive": adaptive,
        "mean": "avg" in kind,
        "padded": given.get("count_include_pad", False),
    }
    dims = 1 if one else 2
    for word, default in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
        value = given.get(word, default)
        value = given["kernel_size"] if word == "stride" and not adaptive and not value else value
        more[word] = pair(value, dims, 0 if word == "padding" else 1)
    more["out"] = pair(shape[2:], dims)
    output = build.new(shape)
    build.steps.append(Step("pool", output, [View(source.buffer, image)], more))
    return [output, None] if several else output


def embed(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Rows of a constant table."""
    table, source, output = build.value(given["weight"]), build.packed(build.value(given["indices"])), build.new(node)
    if table.buffer.constant is None:
        raise build.missing(node, "embedding in a computed table")
    build.steps.append(Step("embed", output, [source], {"table": build.name_of(given["weight"])}))
    return output


def embed_bag(build: Builder, node: fx.Node, given: dict[str, Any]) -> Any:
    """Sums, means or maxima of rows of a constant table."""
    table, offsets = build.value(given["weight"]), build.value(given["offsets"])
    if table.buffer.constant is None or offsets.buffer.constant is None or given.get("per_sample_weights") is not None:
        raise build.missing(node, "embedding_bag with weights of samples, or with computed bags or table")
    if given.get("padding_idx", -1) not in (None, -1):
        raise build.missing(node, "embedding_bag with padding_idx")
    source, width = build.packed(build.value(given["indices"])), table.meta.shape[1]
    rows = build.new((source.meta.numel(), width))
    build.steps.append(Step("embed", rows, [source], {"table": build.name_of(given["weight"])}))
    output, what = build.new(node.meta["val"][0].shape), ("SUM", "MEAN", "LARGEST")[given["mode"]]
    ends = [*build.actual(offsets).tolist(), source.meta.numel()]
    for bag, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
        if bag < len(output.meta):
            place = View(output.buffer, output.meta[bag])
            if start == end:
                build.copy(build.value(0.0), place)
            else:
                part = View(rows.buffer, rows.meta[start:end])
                build.steps.append(Step("reduce", place, [part], {"what": what, "dims": {0}}))
    return [output, None, None, None]


def attend(build: Builder, node: fx.Node, given: dict[str, Any]) -> View:
    """Attention with heads; a mask may be there if it is known beforehand or consists of terms."""
    views = [build.value(given[name]) for name in ("query", "key", "value")]
    if any(view.meta.dim() != 4 for view in views):
        raise build.missing(node, "attention without heads")
    mask = None if given["attn_mask"] is None else build.value(given["attn_mask"])
    if mask is not None:
        shape = (1, views[0].meta.shape[1], views[0].meta.shape[2], views[1].meta.shape[2])
        if mask.buffer.constant is not None:
            terms = build.actual(mask)
            terms = torch.where(terms, 0.0, LOWEST) if terms.dtype == torch.bool else terms.clamp(min=LOWEST)
            mask = build.constant(f"{node.name} mask", terms.float())
        elif given["attn_mask"].meta["val"].dtype == torch.bool:
            mask = build.map("SUBTRACT", [build.value(1.0), mask])
            build.map("MULTIPLY", [mask, build.value(LOWEST)], into=mask)
        mask = View(mask.buffer, mask.meta.expand(shape))
    scale = given["scale"] or views[0].meta.shape[-1] ** -0.5
    output = build.new(node)
    more = {"scale": scale, "causal": given["is_causal"]}
    build.steps.append(Step("attend", output, [*views, *([mask] if mask else [])], more))
    return output


def recurrent(build: Builder, node: fx.Node, given: dict[str, Any]) -> Any:
    """LSTM, GRU or RNN of any depth and both directions, from a state of zeros."""
    gates = {"lstm": 4, "gru": 3, "rnn_tanh": 1}[kind_of(node)]
    states = given["hx"] if isinstance(given["hx"], list | tuple) else [given["hx"]]
    known = [build.value(state) for state in states]
    zero = all(view.buffer.constant and not build.actual(view).any() for view in known)
    if not zero or (given["train"] and given["dropout"]) or "input" not in given or "batch_sizes" in given:
        raise build.missing(node, f"{kind_of(node)} with a given state, dropout or packed sequences")
    source = build.value(given["input"])
    x = source.meta if given["batch_first"] else source.meta.transpose(0, 1)
    if x.shape[0] != 1:
        raise build.missing(node, f"{kind_of(node)} over {x.shape[0]} sequences of one sample")
    directions = 2 if given["bidirectional"] else 1
    each = 4 if given["has_biases"] else 2
    parameters = [build.name_of(parameter) for parameter in given["params"]]
    hidden = build.tensors[str(parameters[1])].shape[1]
    if any(
        build.tensors[str(parameters[at + 1])].shape[1] * gates != len(build.tensors[str(parameters[at])])
        for at in range(0, len(parameters), each)
    ):
        raise build.missing(node, "an LSTM with projections")
    current = View(source.buffer, x)
    ends: list[View] = []
    for place in range(given["num_layers"]):
        output = build.new((1, x.shape[1], directions * hidden))
        for direction in range(directions):
            at = (place * directions + direction) * each
            weights = [*parameters[at : at + each], None, None][:4]
            half = View(output.buffer, output.meta.narrow(2, direction * hidden, hidden))
            names = ("input_weight", "hidden_weight", "input_bias", "hidden_bias")
            more: dict[str, Any] = dict(zip(names, weights, strict=True))
            more |= {"gates": gates, "backward": direction}
            build.steps.append(Step("recur", half, [current], more))
            ends.append(View(output.buffer, half.meta.select(1, 0 if direction else x.shape[1] - 1)))
        current = output
    result = current if given["batch_first"] else View(current.buffer, current.meta.transpose(0, 1))
    state = build.new((len(ends), 1, hidden))
    if any(user.args[1] == 1 for user in node.users):
        for place, end in enumerate(ends):
            build.copy(end, View(state.buffer, state.meta.select(0, place)))
    return [result, state, None]  # without the cells' last state


PARTS: dict[str, Operation] = {
    **{"mean": reduction("MEAN"), "sum": reduction("SUM"), "amax": reduction("LARGEST")},
    **{"softmax": softmax, "log_softmax": softmax, "layer_norm": layer_norm, "group_norm": group_norm},
    **{"instance_norm": instance_norm, "max": largest},
    **{
        "batch_norm": batch_norm,
        "rms_norm": rms_norm,
        "embedding": embed,
        "embedding_bag": embed_bag,
        "scaled_dot_product_attention": attend,
    },
    **dict.fromkeys(("max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d"), pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d"), pool),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d"), pool),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh"), recurrent),
}
