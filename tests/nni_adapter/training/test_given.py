"""Arguments of NNI's evaluators that are of another type or form: one sentence before anything changes."""

from __future__ import annotations

import nni
import pytest
import torch
from nni.compression.utils import LightningEvaluator, TorchEvaluator, TransformersEvaluator
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from tests.nni_adapter.nets import Net, batches, config, make_loop, training_step
from tests.nni_adapter.training.test_evaluators import Batches, LitNet, lightning_evaluator
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PTTQQuantizer

pl = pytest.importorskip("pytorch_lightning")

SGD, STEP, PLATEAU = nni.trace(torch.optim.SGD), nni.trace(StepLR), nni.trace(ReduceLROnPlateau)
TRACED = r"must be one of torch's that NNI traced, got"


def sgd(model):
    return SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"training_func": None}, "training_func must be a function of model, optimizers, .*, max_epochs, got None"),
        ({"training_func": Net()}, "training_func must be a function of .*, got Net"),
        (
            {"training_func": lambda model, optimizers: 0},
            r"must take model, .* by place, got a function of \(model, op",
        ),
        ({"training_step": "step"}, "training_step must be a function of batch, got 'step'"),
        ({"training_step": lambda: 0}, r"training_step must take batch by place, got a function of \(\)"),
        ({"evaluating_func": 3}, "evaluating_func must be a function of model, got 3"),
        ({"optimizers": SGD}, f"optimiser {TRACED} the class SGD; make it with nni.trace\\(torch.optim.Adam"),
        ({"optimizers": [3]}, f"optimiser {TRACED} 3;"),
        ({"optimizers": STEP(sgd(Net()), 1)}, f"optimiser {TRACED} StepLR;"),
        ({"optimizers": [sgd(Net())] * 2}, "the same optimiser twice"),
        ({"lr_schedulers": 0}, f"scheduler {TRACED} 0; make it with nni.trace\\(StepLR"),
        ({"lr_schedulers": sgd(Net())}, f"scheduler {TRACED} SGD;"),
        ({"lr_schedulers": [nni.trace(nn.Linear)(2, 2)]}, f"scheduler {TRACED} Linear;"),
    ],
)
def test_torch(changed, message):
    arguments = {"training_func": make_loop(), "optimizers": sgd(Net()), "training_step": training_step}
    with pytest.raises(InputError, match=message):
        TorchEvaluator(**(arguments | changed))
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        TorchEvaluator(**arguments, other=1)


def trainer(trace=nni.trace):
    return trace(pl.Trainer)(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lightning():
    wrong = ((None, "None"), (pl.Trainer, "the class Trainer"), (trainer(lambda c: c), "an untraced Trainer"))
    for item, got in (*wrong, (Batches(), "Batches")):
        with pytest.raises(InputError, match=f"needs a trainer of pytorch_lightning that NNI traced, got {got};"):
            LightningEvaluator(item, nni.trace(Batches)())
    for item, got in ((None, "None"), (batches(2), "list of tuple"), (Batches(), "an untraced Batches")):
        with pytest.raises(InputError, match=f"needs a data module of pytorch_lightning .*, got {got}; make it with"):
            LightningEvaluator(trainer(), item)


def test_transformers():
    for item, got in ((None, "None"), (Net(), "Net"), (sgd(Net()), "SGD")):
        with pytest.raises(InputError, match=f"needs a Trainer that NNI traced, got {got}; make it with nni.trace"):
            TransformersEvaluator(item)


# What configure_optimizers returns


class Given(LitNet):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def configure_optimizers(self):
        return self.form(sgd(self))

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss)
        return loss


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "form",
    [
        lambda o: (o,),
        lambda o: ([o], []),
        lambda o: {"optimizer": o, "lr_scheduler": STEP(o, 1)},
        lambda o: {"optimizer": o, "lr_scheduler": None},
        lambda o: {"optimizer": o, "lr_scheduler": {"scheduler": PLATEAU(o), "monitor": "loss"}},
        lambda o: ([o], [{"scheduler": STEP(o, 1), "interval": "step"}]),
    ],
)
def test_every_form_of_lightning_trains_the_scales(form):
    torch.manual_seed(0)
    model = Given(form)
    quantizer = PTTQQuantizer(model, config("net.conv1"), lightning_evaluator(), lr_scale=0.01)
    before = quantizer.states()["net.conv1"].scales.detach().clone()
    quantizer.compress(2, None)
    assert not torch.equal(before, quantizer.states()["net.conv1"].scales)
    by_step = "interval" in str(form(sgd(model)))
    assert [rates[:2] for rates in model.rates] == [
        [0.1, 0.01],
        pytest.approx([0.01, 0.001] if by_step else [0.1, 0.01]),
    ]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda o: None, "must return one optimiser or several, .* got None"),
        (lambda o: [], "must return one optimiser or several, .* got list"),
        (lambda o: {"optim": o}, "must return one optimiser or several, .* got dict"),
        (lambda o: ([3], [4]), "must return one optimiser or several, .* got tuple of list"),
        (lambda o: [[o]], "must return one optimiser or several, .* got list of list"),
        (lambda o: ([o], [StepLR(o, 1)]), "scheduler must be traced by NNI, got a plain StepLR"),
        (lambda o: {"optimizer": o, "lr_scheduler": {"interval": "step"}}, f"scheduler {TRACED} None"),
        (lambda o: ([o], [STEP(sgd(Net()), 1)]), "StepLR belongs to an optimiser that was not returned"),
        (lambda o: ([o], [STEP(o, 1), STEP(o, 2)]), "one learning-rate scheduler for each optimiser, got several"),
    ],
)
def test_other_forms_are_refused_before_anything_changes(form, message):
    model = Given(form)
    before = dict(model.named_parameters())
    with pytest.raises(InputError, match=message):
        PTTQQuantizer(model, config("net.conv1"), lightning_evaluator())
    assert all(p is before[name] for name, p in model.named_parameters())
    assert "configure_optimizers" not in vars(model) and not any(hasattr(m, "_nni_wrapper") for m in model.modules())


def test_a_model_that_is_no_lightning_module():
    with pytest.raises(InputError, match="LightningEvaluator trains a LightningModule, got Net; pass such a module"):
        PTTQQuantizer(Net(), config("conv1"), lightning_evaluator())
