"""Which operators there are."""

from __future__ import annotations

from ttq_plugin.deploy.integer.operators import attention, embedding, norms, picks, recurrent
from ttq_plugin.deploy.integer.operators.form import Emitter, Form

EMITTERS: dict[str, Emitter] = {
    **{"normalise": norms.emit, "attend": attention.attend, "product": attention.product, "embed": embedding.emit},
    **{"softmax": attention.softmax, "recur": recurrent.emit, "pick": picks.emit},
}
"""Functions that add a step to the graph, by the kind of the step."""

FORMS: dict[str, Form] = {
    **{"normalise": norms.FORM, "product": attention.PRODUCT, "softmax": attention.SOFTMAX, "embed": embedding.FORM},
    **{"recur": recurrent.FORM},
}
"""Operators by the kind of the operation."""
