"""A U-Net that finds the stroke in a noisy digit, from Task to packed file, scored by intersection over union."""

from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from ttq_plugin import compress, load_packed, save_packed, train
from ttq_plugin.tasks.task import Data, Recipe, Split, Task


def load(source, seed):
    """Digits of 16 x 16 pixels under noise; the target says of each pixel whether it is ink."""
    clean = F.interpolate(torch.as_tensor(load_digits().images[:900], dtype=torch.float32)[:, None] / 16, (16, 16))
    noisy = clean + 0.3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    mask = (clean > 0.4).float()
    return Data(*(Split(noisy[part], mask[part]) for part in torch.arange(900).split([600, 150, 150])))


def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.bottom = block(1, 8), block(8, 16), block(16, 16)
        self.up2, self.up1, self.head = block(32, 8), block(16, 8), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        low = F.interpolate(self.bottom(F.max_pool2d(two, 2)), scale_factor=2)
        high = F.interpolate(self.up2(torch.cat([two, low], 1)), scale_factor=2)
        return self.head(self.up1(torch.cat([one, high], 1)))


loss = F.binary_cross_entropy_with_logits
TASK = Task("stroke", "ink or paper", load, UNet, loss, Recipe(epochs=6, lr=1e-2), metric="iou")

if __name__ == "__main__":
    trained = train(TASK, curvature=True, show=False)
    print(f"full precision IoU {trained.score:.3f}")
    outcome = compress(trained, "pttq", t_min=0.5, t_max=0.5, epochs=5, lr=3e-3, show=False)
    print(f"ternary        IoU {outcome.metrics['iou']:.3f}")
    save_packed(outcome.model, "stroke.safetensors", method="pttq")
    loaded = load_packed("stroke.safetensors", model=UNet()).eval()
    print(f"packed {Path('stroke.safetensors').stat().st_size} bytes, was {outcome.report.bits_fp32 // 8}")
    print(f"layer {outcome.layers[0]}: values {loaded.get_submodule(outcome.layers[0]).weight.unique().tolist()}")
