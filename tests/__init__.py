"""Under pytest, a failed assertion in the shared suites shows its values, as one in a test does."""

import sys

if "pytest" in sys.modules:
    import pytest

    pytest.register_assert_rewrite("tests.support")
