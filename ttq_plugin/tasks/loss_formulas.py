"""Formulas of losses, from logits and labels; all twice differentiable, as Hessian traces need.

Labels are class indices, int64 of shape (batch,), or probabilities (soft labels) of shape (batch, classes) that sum to
one. Below, p = softmax(logits), y is the label as probabilities, and both sums and class weights run over classes k.
Every loss is the mean over the batch; with class weights c it is a weighted mean, in which sample i has the weight
sum_k c_k y_ik. Logits and labels whose shapes do not fit raise InputError.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ttq_plugin.errors import InputError


def cross_entropy(
    logits: Tensor, labels: Tensor, *, class_weights: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """L = -sum_k c_k s_k log p_k with s = (1 - smoothing) y + smoothing / classes (Szegedy et al. 2016, section 7).

    Args:
        logits: (batch, classes).
        labels: Indices or probabilities.
        class_weights: c, shape (classes,); None for equal ones.
        smoothing: Share of the label that is spread over all classes, in [0, 1).

    Returns:
        Scalar in nats, at least 0; indices give what torch gives, and the same labels as probabilities give that too
        (torch itself divides those by the batch, not by the weights).
    """
    y = _probabilities(logits, labels)
    weights = None if class_weights is None else class_weights.to(logits.dtype)
    if not labels.is_floating_point():
        return F.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    total = len(y) if weights is None else (y * weights).sum()
    return F.cross_entropy(logits, y, weights, reduction="sum", label_smoothing=smoothing) / total


def generalised_cross_entropy(
    logits: Tensor, labels: Tensor, *, class_weights: Tensor | None = None, q: float = 0.7
) -> Tensor:
    """L_q = sum_k y_k (1 - p_k^q) / q (Zhang & Sabuncu 2018, there for one class a sample).

    Between cross-entropy (q -> 0) and 1 - p_y, half the mean absolute error (q = 1).

    Args:
        logits: (batch, classes).
        labels: Indices or probabilities.
        class_weights: c, shape (classes,); None for equal ones.
        q: The exponent, in (0, 1]; the larger, the less a sample that contradicts its label pulls.

    Returns:
        Scalar in [0, 1 / q].
    """
    y = _probabilities(logits, labels)
    # expm1, since 1 - p^q has no digits left for a small q.
    return _mean((y * -torch.expm1(q * logits.log_softmax(1)) / q).sum(1), y, class_weights)


def symmetric_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = -4.0,
) -> Tensor:
    """L = alpha CE + beta RCE with RCE = -sum_k p_k log y_k, where log 0 is the number A (Wang et al. 2019).

    For one class a sample RCE = -A (1 - p_y). In soft labels A is the least that log y_k can be, so that a probability
    that is almost 0 counts as 0 does.

    Args:
        logits: (batch, classes).
        labels: Indices or probabilities.
        class_weights: c, shape (classes,); None for equal ones.
        alpha: Weight of the cross-entropy, positive.
        beta: Weight of the reverse cross-entropy, positive.
        log_zero: A, negative.

    Returns:
        Scalar, at least 0.
    """
    y = _probabilities(logits, labels)
    reverse = -(logits.softmax(1) * y.log().clamp(min=log_zero)).sum(1)
    return alpha * cross_entropy(logits, labels, class_weights=class_weights) + beta * _mean(reverse, y, class_weights)


def jensen_shannon(logits: Tensor, labels: Tensor, *, class_weights: Tensor | None = None, pi: float = 0.5) -> Tensor:
    """L = (pi KL(y || m) + (1 - pi) KL(p || m)) / Z with m = pi y + (1 - pi) p and Z = -(1 - pi) log(1 - pi).

    Englesson & Azizpour 2021: between cross-entropy (pi -> 0) and 1 - p_y, half the mean absolute error (pi -> 1, as
    slowly as 1 / log(1 - pi)).

    Args:
        logits: (batch, classes).
        labels: Indices or probabilities.
        class_weights: c, shape (classes,); None for equal ones.
        pi: Weight of the label, in (0, 1).

    Returns:
        Scalar in [0, -(pi log pi + (1 - pi) log(1 - pi)) / Z]; 0 where p = y.
    """
    y = _probabilities(logits, labels)
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    # Where y_k = 0, log m_k = log(1 - pi) + log p_k also when p_k underflows; the inner `where` keeps log 0, and so
    # NaN, out of the gradient.
    some = y > 0
    log_m = torch.where(some, torch.where(some, pi * y + (1 - pi) * p, 1).log(), math.log1p(-pi) + log_p)
    divergence = pi * (torch.xlogy(y, y) - y * log_m).sum(1) + (1 - pi) * (p * (log_p - log_m)).sum(1)
    return _mean(divergence, y, class_weights) / (-(1 - pi) * math.log1p(-pi))


def distillation(
    logits: Tensor,
    labels: Tensor,
    *,
    teacher_logits: Tensor,
    class_weights: Tensor | None = None,
    temperature: float = 2.0,
    weight: float = 0.5,
) -> Tensor:
    """L = (1 - weight) CE + weight T^2 KL(softmax(teacher / T) || softmax(logits / T)) (Hinton et al. 2015, section 2).

    They write the second term as a cross-entropy: more by the teacher's entropy, which has no gradient.

    Args:
        logits: The student's logits, (batch, classes).
        labels: Indices or probabilities.
        teacher_logits: The teacher's logits, of the same shape; no gradient flows into them.
        class_weights: c, shape (classes,), for both terms; None for equal ones.
        temperature: T, positive; T^2 keeps the gradient's size when T changes.
        weight: The weight of the teacher, in [0, 1].

    Returns:
        Scalar, at least 0.

    Raises:
        InputError: For teacher's logits of another shape.
    """
    y = _probabilities(logits, labels)
    if teacher_logits.shape != logits.shape:
        raise InputError(
            f"teacher_logits must have the shape {tuple(logits.shape)} of the logits, got "
            f"{tuple(teacher_logits.shape)}: teacher and model must have the same classes."
        )
    student, teacher = ((z / temperature).log_softmax(1) for z in (logits, teacher_logits.detach()))
    soft = temperature**2 * F.kl_div(student, teacher, log_target=True, reduction="none").sum(1)
    hard = cross_entropy(logits, labels, class_weights=class_weights)
    return (1 - weight) * hard + weight * _mean(soft, y, class_weights)


def _probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """y, shape (batch, classes), in the dtype of the logits."""
    soft = labels.is_floating_point()
    shape = logits.shape if soft else logits.shape[:1]
    if logits.dim() != 2 or labels.shape != shape or not (soft or labels.dtype == torch.int64):
        raise InputError(
            "logits must have the shape (batch, classes) and labels be int64 indices (batch,) or probabilities "
            f"(batch, classes), got logits {tuple(logits.shape)} and {labels.dtype} labels {tuple(labels.shape)}."
        )
    return (labels if soft else F.one_hot(labels, logits.shape[1])).to(logits.dtype)


def _mean(losses: Tensor, y: Tensor, class_weights: Tensor | None) -> Tensor:
    """Mean of a loss per sample, shape (batch,), weighted by the samples' classes."""
    if class_weights is None:
        return losses.mean()
    weights = (y * class_weights.to(y.dtype)).sum(1)
    return (weights * losses).sum() / weights.sum()
