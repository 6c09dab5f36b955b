"""That it was the patch that answered: to compare with the unpatched model says nothing where that answered itself."""

from __future__ import annotations

import contextlib
import unittest.mock

from torch import nn


def _own_forward(self, *args, **kwargs):
    raise AssertionError(f"the own forward of {type(self).__name__} answered, not the patch")


@contextlib.contextmanager
def only_the_fast_path(model, without=None):
    """Meanwhile the own forward of the class of `model`, which is patched, fails; so does every Linear in `without`."""
    linear = set() if without is None else {part for part in without.modules() if isinstance(part, nn.Linear)}
    call = nn.Module.__call__

    # Not by hooks, which a patched model notices.
    def checked_call(module, *args, **kwargs):
        if module in linear:
            raise AssertionError(
                f"a {type(module).__name__} of the model was called, which the packed engine does without"
            )
        return call(module, *args, **kwargs)

    with (
        unittest.mock.patch.object(type(model), "forward", _own_forward),
        unittest.mock.patch.object(nn.Module, "__call__", checked_call),
    ):
        yield model
