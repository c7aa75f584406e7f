"""Sparse categorical cross-entropy: the loss between integer labels and class scores.

For any array, on any class axis, without a deep-learning framework:

    >>> import sparse_xent as sx
    >>> sx.loss_sparse_categorical_crossentropy([1, 2], [[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])
    array([0.05129339, 2.30258509])
"""

import logging

from sparse_xent.arrays import dynamo
from sparse_xent.arrays.numpy import op_array
from sparse_xent.config import (
    config_epsilon,
    config_floatx,
    config_set_epsilon,
    config_set_floatx,
    config_set_threads,
    config_threads,
)
from sparse_xent.device import cuda_check
from sparse_xent.loss import (
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
    loss_categorical_crossentropy,
    loss_sparse_categorical_crossentropy,
)
from sparse_xent.metrics import (
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
    SparseCategoricalCrossentropyMetric,
    SparseTopKCategoricalAccuracy,
    metric_categorical_accuracy,
    metric_sparse_categorical_accuracy,
    metric_sparse_categorical_crossentropy,
    metric_sparse_top_k_categorical_accuracy,
)
from sparse_xent.partial import Partial, partial
from sparse_xent.shards import RowState, finish_rows, grad_from_rows, merge_rows, row_partial

__version__ = "0.1.0"

__all__ = [
    "CategoricalAccuracy",
    "CategoricalCrossentropy",
    "Partial",
    "RowState",
    "SparseCategoricalAccuracy",
    "SparseCategoricalCrossentropy",
    "SparseCategoricalCrossentropyMetric",
    "SparseTopKCategoricalAccuracy",
    "config_epsilon",
    "config_floatx",
    "config_set_epsilon",
    "config_set_floatx",
    "config_set_threads",
    "config_threads",
    "cuda_check",
    "finish_rows",
    "grad_from_rows",
    "loss_categorical_crossentropy",
    "loss_sparse_categorical_crossentropy",
    "merge_rows",
    "metric_categorical_accuracy",
    "metric_sparse_categorical_accuracy",
    "metric_sparse_categorical_crossentropy",
    "metric_sparse_top_k_categorical_accuracy",
    "op_array",
    "partial",
    "row_partial",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())
dynamo.leave_to_python(__name__)
