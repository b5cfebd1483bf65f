"""What evaluation refuses; its numbers are tested with the protocol, the ruler and the flow."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models
from tasks.errors import WeightsError
from tasks.evaluate import _answer
from tasks.protocol import Picture, prepare

CPU = torch.device("cpu")


class _Echo(nn.Module):
    """Answers with its input, one value of it replaced if there is one to put there."""

    def __init__(self, value: float | None) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        """N×1×H×W to the same shape."""
        answer = x.clone()
        if self.value is not None:
            answer[0, 0, 3, 4] = self.value
        return answer


def _picture() -> Picture:
    hr = np.arange(20 * 16, dtype=np.uint8).reshape(20, 16) // 2
    return prepare(models.get("srcnn"), "stripes.png", hr, hr[::2, ::2], 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_answer_that_is_no_number_is_an_error(value: float) -> None:
    with pytest.raises(WeightsError, match=r"srcnn answers stripes.png with values that are no"):
        _answer(_Echo(value), models.get("srcnn"), _picture(), CPU)


def test_a_finite_answer_comes_as_bytes_with_its_time() -> None:
    picture = _picture()

    answer, latency_ms = _answer(_Echo(None), models.get("srcnn"), picture, CPU)

    expected = np.floor(picture.x[0, 0].double().numpy().clip(0, 1) * 255 + 0.5)
    np.testing.assert_array_equal(answer, expected)
    assert answer.dtype == np.uint8
    assert 0 < latency_ms < 1000
