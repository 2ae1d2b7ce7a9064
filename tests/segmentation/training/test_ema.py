"""The moving average of the weights against NumPy."""

from __future__ import annotations

import numpy as np
import torch

from covseg_ray.segmentation.training.ema import Averaged


def test_the_average_keeps_its_share_at_each_step():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    averaged = Averaged(network, 0.75)
    expected: dict[str, np.ndarray] = {}
    for step in range(4):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += torch.randn_like(parameter)
        network(torch.randn(3, 1, 5, 5))  # moves the batch statistics
        averaged.update()
        for name, tensor in network.state_dict().items():
            now = tensor.numpy().astype(float)
            mean = 0.75 * expected.get(name, now) + 0.25 * now
            expected[name] = mean
        assert int(averaged.steps) == step + 1
    counter = "1.num_batches_tracked"  # a whole number, which nothing reads
    for name, tensor in averaged.module.state_dict().items():
        if name != counter:
            np.testing.assert_allclose(tensor.numpy(), expected[name], rtol=1e-5, err_msg=name)


def test_it_goes_on_where_its_state_was_saved():
    torch.manual_seed(1)
    network = torch.nn.Linear(3, 2)
    averaged = Averaged(network, 0.5)
    averaged.update()
    again = Averaged(network, 0.5)
    again.load_state_dict(averaged.state_dict())
    with torch.no_grad():
        network.weight.zero_()
    averaged.update()
    again.update()
    assert int(again.steps) == 2
    np.testing.assert_array_equal(again.module.weight.detach(), averaged.module.weight.detach())
