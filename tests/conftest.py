"""Small networks on few cores: threads inside an operator only get in the way of tests that run side by side."""

import torch

torch.set_num_threads(1)
