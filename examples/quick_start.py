"""One quantizer in an NNI pipeline: ternary weights by PTTQQuantizer beside int8 activations by NNI's QATQuantizer."""

import nni
import torch
import torch.nn.functional as F
from nni.compression.quantization import QATQuantizer
from nni.compression.utils import TorchEvaluator
from sklearn.datasets import load_digits
from torch import nn

from ttq_plugin import PTTQQuantizer

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
x, y = torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.as_tensor(labels)
train, test = torch.randperm(len(x)).split([1400, len(x) - 1400])
net = nn.Sequential(
    nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU6(), nn.MaxPool2d(2)),
    nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU6(), nn.MaxPool2d(2), nn.Flatten()),
    nn.Linear(128, 10),
)


def training(model, optimizer, training_step, scheduler=None, max_steps=None, max_epochs=None):
    model.train()
    for _ in range(max_epochs):
        for batch in train[torch.randperm(len(train))].split(32):
            optimizer.zero_grad()
            training_step((x[batch], y[batch]), model).backward()
            optimizer.step()


def training_step(batch, model):
    return F.cross_entropy(model(batch[0]), batch[1])


def accuracy(model):
    with torch.no_grad():
        return (model.eval()(x[test]).argmax(1) == y[test]).float().mean().item()


def sgd():
    return nni.trace(torch.optim.SGD)(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)


training(net, sgd(), training_step, max_epochs=5)
print(f"full precision    accuracy {accuracy(net):.3f}")

weights = [{"op_names": ["1.0", "2"], "target_names": ["weight"], "quant_dtype": "int2"}]
activations = [{"op_names": ["1.0", "2"], "target_names": ["_input_", "_output_"], "quant_dtype": "int8"}]
quantizer = PTTQQuantizer(net, weights, TorchEvaluator(training, sgd(), training_step), t_min=1.0, t_max=1.0)
both = QATQuantizer.from_compressor(quantizer, activations)
_, calibration = both.compress(None, max_epochs=5)
compressed = quantizer.export_model()
print(f"ternary, int8     accuracy {accuracy(net):.3f}")
print(f"ternary, exported accuracy {accuracy(compressed):.3f}")
for name, targets in calibration.items():
    kinds = ", ".join(f"{target} {entry['quant_dtype']}" for target, entry in targets.items())
    print(f"{name}: {kinds}, weight values {compressed.get_submodule(name).weight.unique().tolist()}")
