"""How far each layer moved, against norms worked out by hand."""

import math

import torch
from torch import nn

from tracerft.evaluation.dynamics import drift


class Small(nn.Module):
    """Two numbered blocks, a frozen projection, a bias of zeros, a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(2, 1) for _ in range(2)])
        self.proj = nn.Linear(2, 2, bias=False)
        self.norm = nn.Linear(1, 1)
        self.scale = nn.Parameter(torch.tensor(2.0))
        for block, value in zip(self.blocks, (3.0, 5.0), strict=True):
            nn.init.constant_(block.weight, value)
            nn.init.constant_(block.bias, value)
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)


def test_each_layer_is_measured_over_all_its_tensors():
    """|W - W0| / |W0|: 4 over sqrt(27), nothing, and a half; a layer of zeros has no ratio."""
    start, end = Small(), Small()
    end.load_state_dict(start.state_dict())
    with torch.no_grad():
        end.blocks[0].weight[0, 0] += 4.0
        end.scale += 1.0
    found = drift(start, end)
    assert list(found) == ["scale", "blocks.0", "blocks.1", "proj"]
    assert math.isclose(found["blocks.0"], 4.0 / math.sqrt(27.0))
    assert (found["blocks.1"], found["proj"], found["scale"]) == (0.0, 0.0, 0.5)


def test_tensors_that_the_start_lacks_are_left_out():
    """As a head of classes is."""
    start, end = Small(), Small()
    end.load_state_dict(start.state_dict())
    end.head = nn.Linear(2, 3)
    assert set(drift(start, end)) == set(drift(start, start))
