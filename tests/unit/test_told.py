"""What a step tells its parent across the process boundary arrives as it was told."""

from pathlib import Path

import pytest

from hwc import told
from hwc.errors import IntegrityError


def test_warnings_come_back_in_order_one_a_line(tmp_path: Path) -> None:
    assert told.warnings(tmp_path) == []
    told.warn(tmp_path, "left out: `a`")
    told.warn(tmp_path, "a text\nof two lines, with ü")
    assert told.warnings(tmp_path) == ["left out: `a`", "a text of two lines, with ü"]


def test_an_error_comes_back_whole(tmp_path: Path) -> None:
    told.raise_told(tmp_path)
    told.tell(tmp_path, IntegrityError("what", where="where", hint="hint"))
    with pytest.raises(IntegrityError) as caught:
        told.raise_told(tmp_path)
    assert str(caught.value) == str(IntegrityError("what", where="where", hint="hint"))
