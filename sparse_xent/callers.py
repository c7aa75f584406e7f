"""Who calls: Keras, which takes what a callable gives for one loss, or one value, a label.

`model.compile(loss=...)` wraps a callable that is no `keras.losses.Loss`, calls it with labels and
scores alone, and weighs, masks and averages what comes back. A mean it would multiply by each
weight and average again: a wrong number in silence. Nothing in such a call tells it from the
user's own, and a loss cannot be of Keras's kind without importing Keras. So the calling function
is looked at, and where it is Keras's the losses are given one by one, as Keras expects them.
"""

import sys

_modules = sys.modules


def called_by_keras() -> bool:
    """Whether the function that asks was called by a function of Keras."""
    if "keras" not in _modules:
        return False
    module = sys._getframe(2).f_globals.get("__name__") or ""
    return module.partition(".")[0] == "keras"
