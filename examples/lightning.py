"""PyTorch Lightning: NNI's LightningEvaluator around a user's module, data module and trainer (pytorch-lightning 2)."""

import logging
import warnings

import nni
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from nni.compression.utils import LightningEvaluator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ttq_plugin import PTTQQuantizer

warnings.simplefilter("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
images, labels = load_digits(return_X_y=True)
x, y = torch.as_tensor(images, dtype=torch.float32) / 16, torch.as_tensor(labels)


class Digits(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(x[:1400], y[:1400]), batch_size=32, shuffle=True)


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):  # NNI builds both anew for the wrapped model: they must be traced
        optimizer = nni.trace(torch.optim.Adam)(self.parameters(), lr=2e-3)
        scheduler = nni.trace(torch.optim.lr_scheduler.CosineAnnealingLR)(optimizer, T_max=10)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def accuracy(self):
        with torch.no_grad():
            return (self.net.eval()(x[1400:]).argmax(1) == y[1400:]).float().mean().item()


pl.seed_everything(0, verbose=False)
quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
trainer = nni.trace(pl.Trainer)(max_epochs=10, accelerator="cpu", **quiet)
model = Classifier()
trainer.fit(model, Digits())
print(f"full precision accuracy {model.accuracy():.3f}")

evaluator = LightningEvaluator(trainer, nni.trace(Digits)())
quantizer = PTTQQuantizer(model, [{"op_names": ["net.0"], "target_names": ["weight"]}], evaluator)
quantizer.compress(None, max_epochs=10)
compressed = quantizer.export_model()
print(f"ternary        accuracy {compressed.accuracy():.3f}")
print(f"net.0: values {compressed.net[0].weight.unique().tolist()}")
