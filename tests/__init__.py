"""The project's tests. A test's tier is its folder: `quick`, `standard`, `nightly`; `support` has what they share."""

import pytest

pytest.register_assert_rewrite("tests.support")  # its assertions tell values, too
