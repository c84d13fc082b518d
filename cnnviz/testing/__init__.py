"""For tests of a model: that it looks where it should, and not where it should not.

    from cnnviz.testing import assert_looks_at

    def test_looks_at_the_cat():
        assert_looks_at("model.py:build", "cat.jpg", box=(120, 80, 200, 160), at_least=0.5)

What fails is written as a picture to ``cnnviz-failures/`` (the environment variable CNNVIZ_FAILURES names another
folder; empty, it writes none).
"""

from __future__ import annotations

from cnnviz.testing.assertions import assert_ignores, assert_looks_at, assert_no_drift

__all__ = ["assert_ignores", "assert_looks_at", "assert_no_drift"]
