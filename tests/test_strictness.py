"""No test promotes types or ranks silently, and no process that it starts."""

import os

import jax.numpy as jnp
import pytest
from jax.dtypes import TypePromotionError


def test_a_silent_promotion_of_types_or_ranks_is_an_error():
    with pytest.raises(TypePromotionError):
        jnp.ones(2, jnp.float32) * jnp.ones(2, jnp.int32)
    with pytest.raises(ValueError, match="numpy_rank_promotion"):
        jnp.ones((2, 2)) * jnp.ones(2)
    assert os.environ["JAX_NUMPY_DTYPE_PROMOTION"] == "strict"
    assert os.environ["JAX_NUMPY_RANK_PROMOTION"] == "raise"
