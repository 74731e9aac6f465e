"""NNI's three evaluators with their real trainers: epochs, steps, and learning rates of scales and thresholds."""

from __future__ import annotations

import copy
import os
import warnings

import nni
import pytest
import torch
import torch.nn.functional as F
from nni.compression.distillation import DynamicLayerwiseDistiller
from nni.compression.pruning import TaylorPruner
from nni.compression.quantization import QATQuantizer
from nni.compression.utils import LightningEvaluator, TorchEvaluator, TransformersEvaluator
from torch.utils.data import DataLoader

from tests.nni_adapter.nets import Net, batches, config, make_evaluator, training_step
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PTTQQuantizer

os.environ["HF_HUB_OFFLINE"] = "1"

RATES = [1e-2, 3e-3, 2e-4]
OWN = {"lr_scale": RATES[1], "lr_threshold": RATES[2]}
STEPS_PER_EPOCH = 4
"""``nets.batches`` gives as many."""


def assert_learned(quantizer, before):
    exported = quantizer.export_model()
    modules = dict(exported.named_modules())
    for name, state in quantizer.states().items():
        for key in ("scales", "thresholds"):
            assert not torch.equal(before[name][key], state.params[key]), f"{name}: {key} did not train"
        positive, negative = state.scales.tolist()
        assert set(modules[name].weight.unique().tolist()) == {-negative, 0.0, positive}
    copy.deepcopy(exported)
    return exported


def values(quantizer):
    return {n: {k: v.detach().clone() for k, v in s.params.items()} for n, s in quantizer.states().items()}


# TorchEvaluator


@pytest.mark.parametrize("limits, steps", [((None, 2), 8), ((3, None), 3), ((3, 5), 3)])
def test_torch_epochs_and_steps(limits, steps):
    torch.manual_seed(0)
    model = Net()
    quantizer = PTTQQuantizer(model, config("conv1"), make_evaluator(model))
    before = values(quantizer)
    quantizer.compress(*limits)
    assert quantizer.steps == steps
    assert_learned(quantizer, before)


def test_torch_with_two_optimisers():
    torch.manual_seed(0)
    model = Net()
    log = []

    def loop(model, optimizers, step, schedulers=None, max_steps=None, max_epochs=None):
        for batch in batches():
            for optimizer in optimizers:
                optimizer.zero_grad()
            step(batch, model).backward()
            for optimizer in optimizers:
                optimizer.step()
        log.extend([group["lr"] for group in optimizer.param_groups] for optimizer in optimizers)

    sgd, adam = nni.trace(torch.optim.SGD), nni.trace(torch.optim.Adam)
    fc = list(model.fc.parameters())
    rest = [*model.conv1.parameters(), *model.conv2.parameters()]
    evaluator = TorchEvaluator(loop, [sgd(rest, lr=RATES[0]), adam(fc, lr=0.5)], training_step)
    quantizer = PTTQQuantizer(model, config("conv1"), evaluator, **OWN)
    before = values(quantizer)
    quantizer.compress(None, 1)
    assert_learned(quantizer, before)
    assert log == [RATES, [0.5]]


# LightningEvaluator

pl = pytest.importorskip("pytorch_lightning")


class LitNet(pl.LightningModule):
    """A user's module; ``schedule`` says in which of Lightning's forms the optimiser is returned."""

    def __init__(self, schedule=None):
        super().__init__()
        self.net = Net()
        self.schedule = schedule
        self.rates, self.losses = [], []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        # Lightning's own optimiser, not the one that NNI recorded.
        self.rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        optimizer = nni.trace(torch.optim.SGD)(self.parameters(), lr=RATES[0], momentum=0.9)
        if self.schedule is None:
            return optimizer
        scheduler = nni.trace(torch.optim.lr_scheduler.StepLR)(optimizer, 1, gamma=0.1)
        if self.schedule == "lists":
            return [optimizer], [scheduler]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}


class Batches(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(batches(STEPS_PER_EPOCH), batch_size=None)


def lightning_evaluator(**options):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = nni.trace(pl.Trainer)(max_epochs=1, accelerator="cpu", **quiet, **options)
    return LightningEvaluator(trainer, nni.trace(Batches)())


lightning = pytest.mark.filterwarnings("ignore::UserWarning")


def lightning_quantizer(schedule=None, **options):
    torch.manual_seed(0)
    model = LitNet(schedule)
    return PTTQQuantizer(model, config("net.conv1", "net.conv2"), lightning_evaluator(**options), **OWN)


@lightning
@pytest.mark.parametrize("limits, steps", [((None, 2), 8), ((3, None), 3), ((6, None), 6), ((6, 1), 4)])
def test_lightning_epochs_and_steps(limits, steps):
    quantizer = lightning_quantizer()
    before = values(quantizer)
    quantizer.compress(*limits)
    model = quantizer.bound_model
    assert quantizer.steps == len(model.losses) == steps
    assert model.rates == [pytest.approx(RATES)] * steps
    exported = assert_learned(quantizer, before)
    x = batches(1)[0][0]
    with torch.no_grad():
        assert torch.equal(exported.eval()(x), model.eval()(x))


@lightning
def test_lightning_health_each_epoch():
    torch.manual_seed(0)
    seen = []
    options = {"on_health": seen.append, "health_every": "epoch"}
    quantizer = PTTQQuantizer(LitNet(), config("net.conv1"), lightning_evaluator(), **options)
    for _ in range(2):  # not twice as often in the second training
        quantizer.compress(None, 3)
    assert [health.step for health in seen] == [4, 8, 12, 16, 20, 24]


@lightning
@pytest.mark.parametrize("schedule", ["lists", "dict"])
def test_lightning_schedules(schedule):
    quantizer = lightning_quantizer(schedule)
    quantizer.compress(None, 2)
    rates = quantizer.bound_model.rates
    assert rates[0] == pytest.approx(RATES)
    assert rates[-1] == pytest.approx([rate / 10 for rate in RATES])


@lightning
def test_lightning_accumulates_gradients_and_uses_bfloat16():
    quantizer = lightning_quantizer(accumulate_grad_batches=2, precision="bf16-mixed")
    before = values(quantizer)
    quantizer.compress(None, 2)
    assert quantizer.steps == 4 and len(quantizer.bound_model.losses) == 8
    assert_learned(quantizer, before)
    assert all(state.scales.dtype == torch.float32 for state in quantizer.states().values())


@lightning
def test_lightning_fusion_and_a_second_compress():
    quantizer = lightning_quantizer()
    pruner = TaylorPruner.from_compressor(quantizer, [{"op_names": ["net.conv2"], "sparse_ratio": 0.5}], 2)
    before = values(quantizer)
    _, masks = pruner.compress(None, 1)
    assert masks["net.conv2"]["weight"].mean() == pytest.approx(0.5, abs=0.01)
    middle = values(quantizer)
    assert_learned(quantizer, before)
    pruner.compress(None, 1)
    assert_learned(quantizer, middle)


def test_lightning_has_no_setter_for_the_steps():
    """What ``evaluators._train_lightning`` is for: NNI sets this attribute."""
    with pytest.raises(AttributeError, match="no setter"):
        pl.Trainer(logger=False).fit_loop.max_steps = 3


# TransformersEvaluator

transformers = pytest.importorskip("transformers")


def bert():
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=20, max_position_embeddings=16, **size)
    )


def sentences():
    generator = torch.Generator().manual_seed(0)
    return [
        {"input_ids": torch.randint(0, 20, (6,), generator=generator), "labels": torch.tensor(i % 2)} for i in range(16)
    ]


class Watch(transformers.TrainerCallback):
    def __init__(self):
        self.rates = []

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        self.rates.append([group["lr"] for group in optimizer.param_groups])


def hf_evaluator(model, folder, schedule=None, trace=nni.trace, callbacks=()):
    optimizer = trace(torch.optim.AdamW)(model.parameters(), lr=RATES[0])
    scheduler = nni.trace(schedule[0])(optimizer, **schedule[1]) if schedule else None
    arguments = transformers.TrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        lr_scheduler_type="constant",
    )
    trainer = nni.trace(transformers.Trainer)(
        model=model,
        args=arguments,
        train_dataset=sentences(),
        optimizers=(optimizer, scheduler),
        callbacks=list(callbacks),
    )
    return TransformersEvaluator(trainer)


ENCODER = [{"op_types": ["Linear"], "op_names_re": [r"bert\.encoder\..*"]}]


@pytest.mark.parametrize("limits, steps", [((None, 2), 8), ((3, None), 3)])
def test_transformers_epochs_and_steps(tmp_path, limits, steps):
    model, watch = bert(), Watch()
    quantizer = PTTQQuantizer(model, ENCODER, hf_evaluator(model, tmp_path, callbacks=[watch]), **OWN)
    assert len(quantizer.states()) == 12
    before = values(quantizer)
    quantizer.compress(*limits)
    assert quantizer.steps == steps
    assert watch.rates == [pytest.approx(RATES)] * steps
    exported = assert_learned(quantizer, before)
    ids = torch.stack([s["input_ids"] for s in sentences()])
    with torch.no_grad():
        assert torch.equal(exported.eval()(ids).logits, model.eval()(ids).logits)


def test_transformers_health_each_epoch(tmp_path):
    model, seen = bert(), []
    options = {"on_health": seen.append, "health_every": "epoch"}
    quantizer = PTTQQuantizer(model, ENCODER, hf_evaluator(model, tmp_path), **options)
    for _ in range(2):
        quantizer.compress(None, 2)
    assert [health.step for health in seen] == [4, 8, 12, 16]


def test_a_loop_of_the_users_own_does_not_tell_its_epochs():
    model = Net()
    with pytest.raises(
        InputError, match=r"hides its epochs; pass the number of steps per epoch, health_every=len\(loader\)"
    ):
        PTTQQuantizer(model, config("conv1"), make_evaluator(model), health_every="epoch")
    assert not hasattr(model.conv1, "_nni_wrapper")


def test_transformers_schedule(tmp_path):
    model, watch = bert(), Watch()
    schedule = (torch.optim.lr_scheduler.OneCycleLR, {"max_lr": RATES[0], "total_steps": 20})
    evaluator = hf_evaluator(model, tmp_path, schedule, callbacks=[watch])
    PTTQQuantizer(model, ENCODER, evaluator, **OWN).compress(None, 1)
    for rates in watch.rates:
        assert rates == pytest.approx([rates[0] * rate / RATES[0] for rate in RATES])
    assert len({rates[0] for rates in watch.rates}) > 1


def test_transformers_learned_values_stay_positive_in_a_fusion(tmp_path):
    model = bert()
    evaluator = hf_evaluator(model, tmp_path)
    quantizer = PTTQQuantizer(model, ENCODER, evaluator, lr_scale=1.0, lr_threshold=1.0)
    int8 = [{"op_names": ["classifier"], "target_names": ["_input_"], "quant_dtype": "int8"}]
    qat = QATQuantizer.from_compressor(quantizer, int8)
    qat.compress(2, None)
    assert quantizer.steps == qat.current_step == 2, "each compressor's tasks run, once a step"
    for state in quantizer.states().values():
        assert (state.scales >= 1e-8).all() and (state.thresholds >= 1e-8).all()


def test_transformers_distillation(tmp_path):
    model = bert()
    teacher = copy.deepcopy(model)
    quantizer = PTTQQuantizer(model, ENCODER, hf_evaluator(model, tmp_path), **OWN)
    before = values(quantizer)
    distil = [{"op_names": ["classifier"], "target_names": ["_output_"], "lambda": 1.0, "apply_method": "mse"}]
    asked = []

    def predict(batch, model):
        asked.append(1)
        return model(input_ids=batch["input_ids"])

    distiller = DynamicLayerwiseDistiller.from_compressor(quantizer, distil, teacher, predict)
    distiller.compress(3, None)
    assert len(asked) == 3
    assert_learned(quantizer, before)


def test_transformers_needs_a_traced_optimiser(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = bert()
    with pytest.raises(InputError, match="the optimiser must be traced by NNI, got a plain AdamW"):
        hf_evaluator(model, tmp_path, trace=lambda c: c)
    with pytest.raises(InputError, match=r"the Trainer needs a traced optimiser: nni\.trace\(Trainer\)"):
        TransformersEvaluator(nni.trace(transformers.Trainer)(model=model))


def test_every_trainer_looks_like_deepspeed_to_nni(tmp_path):
    """What ``evaluators._patch_transformers_step`` is for: NNI asks ``hasattr(trainer, "deepspeed")``."""
    trainer = transformers.Trainer(model=bert(), args=transformers.TrainingArguments(tmp_path, report_to=[]))
    assert trainer.deepspeed is None


def test_the_repairs_are_made_once():
    from ttq_plugin import register

    patched = [TransformersEvaluator.__init__, TransformersEvaluator.patch_loss, LightningEvaluator.train]
    register()
    assert patched == [TransformersEvaluator.__init__, TransformersEvaluator.patch_loss, LightningEvaluator.train]
