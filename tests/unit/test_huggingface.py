"""What a Hugging Face model needs beside itself is asked for by name."""

import pytest

from hwc.capture.huggingface import require
from hwc.errors import MachineError


def test_a_package_that_is_not_installed_is_named_with_how_to_install_it():
    with pytest.raises(MachineError, match="sentence-transformers-of-tomorrow") as caught:
        require("sentence_transformers_of_tomorrow", package="sentence-transformers-of-tomorrow")
    assert caught.value.hint == "pip install sentence-transformers-of-tomorrow"


def test_a_package_that_is_installed_is_no_error():
    require("tokenizers", package="tokenizers")
