"""The same methods in other people's loops, and the NNI route as an oracle: bit for bit the same training."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from tests.nni_adapter.nets import Net, batches, config, make_loop, training_step
from ttq_plugin.core import METHODS
from ttq_plugin.core.model.attach import bake, parameter_groups, ternarize
from ttq_plugin.nni_adapter import TernaryQuantizer

LAYERS = ["conv1", "conv2"]
EPOCHS = 4

OPTIMIZERS = {
    "adamax-cosine": (
        torch.optim.Adamax,
        {"lr": 2e-3},
        (torch.optim.lr_scheduler.CosineAnnealingLR, {"T_max": EPOCHS}),
    ),
    "adamax-foreach": (torch.optim.Adamax, {"lr": 2e-3, "foreach": True}, None),
    "sgd-momentum": (torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9, "weight_decay": 1e-3}, None),
}
LARGE = {"lr_scale": 0.5, "lr_threshold": 0.5}
"""Rates at which scales and thresholds leave their range in some step, so that the projection acts."""


def net():
    torch.manual_seed(0)
    return Net()


def by_nni(name, optimizer, options, rates):
    import nni
    from nni.compression.utils import TorchEvaluator

    kind, kwargs, schedule = optimizer
    model = net()
    optim = nni.trace(kind)(model.parameters(), **kwargs)
    scheduler = nni.trace(schedule[0])(optim, **schedule[1]) if schedule else None
    evaluator = TorchEvaluator(make_loop(batches(8)), optim, training_step, scheduler)
    quantizer_class = type("AnyQuantizer", (TernaryQuantizer,), {"method_name": name})
    quantizer = quantizer_class(model, config(*LAYERS), evaluator, **rates, **options)
    quantizer.compress(None, EPOCHS)
    result = {f"{n}.{k}": v.detach() for n, s in quantizer.states().items() for k, v in s.params.items()}
    result |= {f"{n}.latent": getattr(model, n)._nni_wrapper.weight.detach() for n in LAYERS}
    return result, quantizer.export_model()


def by_parametrization(name, optimizer, options, rates):
    kind, kwargs, schedule = optimizer
    model = ternarize(net(), LAYERS, name, **options)
    optim = kind(parameter_groups(model, **rates), **kwargs)
    scheduler = schedule[0](optim, **schedule[1]) if schedule else None
    make_loop(batches(8))(model, optim, training_step, scheduler, max_epochs=EPOCHS)
    baked, result = bake(model), {}
    for n in LAYERS:
        parts = model.get_submodule(n).parametrizations.weight
        parts[0].project_()  # of the last step, which no forward pass has followed
        result |= {f"{n}.{k}": v.detach() for k, v in parts[0].params.items()}
        result[f"{n}.latent"] = parts.original.detach()
    return result, baked


@pytest.mark.parametrize("rates", [{}, LARGE], ids=["default", "projected"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", METHODS)
def test_both_routes_give_bit_identical_weights(name, optimizer, rates):
    options = {"learn_alpha": True, "t_min": 0.2} if name == "pttq" and rates else {}
    start = {n: getattr(net(), n).weight.detach() for n in LAYERS}
    (ours, baked), (theirs, exported) = (
        route(name, OPTIMIZERS[optimizer], options, rates) for route in (by_parametrization, by_nni)
    )
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key
    assert list(baked.state_dict()) == list(exported.state_dict())
    for key, value in exported.state_dict().items():
        assert torch.equal(baked.state_dict()[key], value), key
    assert not any(torch.equal(start[n], ours[f"{n}.latent"]) for n in LAYERS)
    if rates and name == "pttq":
        assert any(bool((value == 1e-8).any()) for value in ours.values())


# Lightning -----------------------------------------------------------------------------------------------------------


def test_lightning_trains_as_a_plain_loop_does(tmp_path):
    lightning = pytest.importorskip("pytorch_lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = ternarize(net(), LAYERS)

        def training_step(self, batch, index):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adamax(parameter_groups(self), lr=2e-3)

    module = Module()
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.fit(module, torch.utils.data.DataLoader(batches(), batch_size=None))
    plain = ternarize(net(), LAYERS)
    make_loop(batches())(plain, torch.optim.Adamax(parameter_groups(plain), lr=2e-3), training_step, max_epochs=3)
    for key, value in plain.state_dict().items():
        assert torch.equal(module.net.state_dict()[key], value), key
    again = Module()
    checkpoint = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)
    again.load_state_dict(checkpoint["state_dict"])
    assert torch.equal(bake(again).net.conv2.weight, bake(plain).conv2.weight)


# Hugging Face --------------------------------------------------------------------------------------------------------


def test_hugging_face_s_trainer_trains_a_real_bert(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    shape = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    torch.manual_seed(0)
    plain = transformers.BertForSequenceClassification(shape)
    names = [n for n, _ in plain.named_modules() if n.endswith((".output.dense", ".query"))]
    assert len(names) == 6
    model = ternarize(copy.deepcopy(plain), names)
    generator = torch.Generator().manual_seed(0)
    data = [
        {"input_ids": torch.randint(0, 40, (8,), generator=generator), "labels": torch.tensor(i % 3)} for i in range(24)
    ]
    arguments = transformers.TrainingArguments(
        tmp_path, num_train_epochs=3, per_device_train_batch_size=8, use_cpu=True, report_to=[], seed=0,
        gradient_accumulation_steps=2, disable_tqdm=True,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.01), lr=1e-3)
    trainer = transformers.Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, None))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer.train()
    learned = [key for key in before if key.endswith((".original", ".scales", ".thresholds"))]
    assert len(learned) == 18
    assert not any(torch.equal(before[key], model.state_dict()[key]) for key in learned)
    baked = bake(model)
    assert list(baked.state_dict()) == list(plain.state_dict()) and type(baked) is type(plain)
    baked.save_pretrained(tmp_path / "baked")
    loaded = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "baked")
    for name in names:
        weight = loaded.get_submodule(name).weight
        positive, negative = model.get_submodule(name).parametrizations.weight[0].scales.tolist()
        assert set(weight.unique().tolist()) == {-negative, 0.0, positive}
    ids = torch.stack([row["input_ids"] for row in data])
    with torch.no_grad():
        assert torch.equal(loaded.eval()(ids).logits, model.eval()(ids).logits)
    trainer.save_model(tmp_path / "latent")  # safetensors, parametrized names and all
    files = transformers.trainer_utils.get_last_checkpoint(tmp_path)
    assert files is not None and os.path.exists(tmp_path / "latent" / "model.safetensors")


# Several processes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fsdp", "ddp"])
def test_two_processes_train_as_one_does(tmp_path, kind):
    """FSDP2 with shards of two on gloo, and DistributedDataParallel; only FSDP needs project_ after a step."""
    command = [sys.executable, "-m", "tests.core.model.processes"]
    started = [
        subprocess.Popen(
            [*command, str(rank), "2", str(tmp_path / "rendezvous"), kind, "pttq"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    results = [(*process.communicate(timeout=600), process.returncode) for process in started]
    for out, err, code in results:
        assert code == 0, err
        if kind == "fsdp":
            assert "0: is sharded; gather the full state dict" in out
            assert "4: is sharded already; ternarize before fully_shard" in out
