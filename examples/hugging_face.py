"""A Hugging Face classifier from Task to packed file: dict inputs, a tiny BERT from its configuration, no download."""

from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForSequenceClassification

from ttq_plugin import compress, load_packed, save_packed, train
from ttq_plugin.tasks.task import Data, Recipe, Split, Task

GOOD, BAD, OTHERS, WORDS = 2, 22, 42, 100  # where each kind of word begins: 0 pads, 1 begins a sentence


def load(source, seed):
    """Sentences of up to 12 words, one of which is good or bad; the others say nothing."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(OTHERS, WORDS, (2400, 12), generator=draw)
    lengths, y = torch.randint(3, 13, (2400,), generator=draw), torch.randint(2, (2400,), generator=draw)
    place = (torch.rand(2400, generator=draw) * (lengths - 1)).long() + 1
    ids[torch.arange(2400), place] = torch.where(y == 1, GOOD, BAD) + torch.randint(20, (2400,), generator=draw)
    ids[:, 0] = 1
    mask = (torch.arange(12) < lengths[:, None]).long()
    x = {"input_ids": ids * mask, "attention_mask": mask}
    parts = torch.arange(2400).split([1600, 400, 400])
    splits = [Split({name: value[part] for name, value in x.items()}, y[part]) for part in parts]
    return Data(*splits, overlap=True)  # short sentences recur


def model():
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return BertForSequenceClassification(BertConfig(vocab_size=WORDS, max_position_embeddings=12, num_labels=2, **size))


def loss(outputs, labels):
    return F.cross_entropy(outputs.logits, labels)


recipe = Recipe(epochs=8, lr=2e-3, batch_size=64, optimizer="adamw", schedule="one-cycle")
TASK = Task("sentiment", "good or bad", load, model, loss, recipe, metric="accuracy", classes=("bad", "good"))

if __name__ == "__main__":
    trained = train(TASK, curvature=True, show=False)
    print(f"full precision accuracy {trained.score:.3f}")
    outcome = compress(trained, "pttq", t_min=0.5, t_max=0.5, epochs=6, lr=1e-3, show=False)
    print(f"ternary        accuracy {outcome.metrics['accuracy']:.3f}")
    save_packed(outcome.model, "sentiment.safetensors", method="pttq")
    loaded = load_packed("sentiment.safetensors", model=model()).eval()
    print(f"packed {Path('sentiment.safetensors').stat().st_size} bytes, was {outcome.report.bits_fp32 // 8}")
    print(f"layer {outcome.layers[0]}: values {loaded.get_submodule(outcome.layers[0]).weight.unique().tolist()}")
