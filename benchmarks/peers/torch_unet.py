"""The paper's Feedback U-Net with ConvLSTMs in PyTorch: the same network and arithmetic, written for speed.

Channels last, round 1 without the recurrent convolution and the forget gate, later rounds with one convolution over
input and hidden state. `load` copies the weights of the JAX network, so that both can be compared number by number.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class Norms(nn.ModuleList):
    """One batch normalisation a round."""

    def __init__(self, features: int, rounds: int) -> None:
        super().__init__(nn.BatchNorm2d(features, eps=1e-3, momentum=0.01) for _ in range(rounds))


class Convolution(nn.Module):
    """A 3x3 convolution -> batch norm of the round -> ReLU."""

    def __init__(self, inputs: int, features: int, rounds: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, features, 3, padding=1)
        self.norms = Norms(features, rounds)

    def forward(self, x: Tensor, state: None, index: int) -> tuple[Tensor, None]:
        """Map `[N, C, H, W]` to `[N, features, H, W]`."""
        return functional.relu(self.norms[index](self.conv(x))), None


class ConvLSTM(nn.Module):
    """A ConvLSTM (gates i, f, c, o) -> batch norm of the round -> ReLU."""

    def __init__(self, inputs: int, features: int, rounds: int) -> None:
        super().__init__()
        self.features = features
        self.kernel = nn.Parameter(torch.empty(4 * features, inputs, 3, 3))
        self.recurrent_kernel = nn.Parameter(torch.empty(4 * features, features, 3, 3))
        self.bias = nn.Parameter(torch.zeros(4 * features))
        nn.init.xavier_uniform_(self.kernel)
        nn.init.orthogonal_(self.recurrent_kernel)
        with torch.no_grad():
            self.bias[features : 2 * features] = 1
        self.norms = Norms(features, rounds)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None, index: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map `[N, C, H, W]` to `[N, features, H, W]`, and the state to the next round's."""
        if state is None:
            f = self.features
            kernel = torch.cat([self.kernel[:f], self.kernel[2 * f :]])
            bias = torch.cat([self.bias[:f], self.bias[2 * f :]])
            i, c, o = functional.conv2d(x, kernel, bias, padding=1).chunk(3, dim=1)
            cell = _gate(i) * torch.tanh(c)
        else:
            kernel = torch.cat([self.kernel, self.recurrent_kernel], dim=1)
            gates = functional.conv2d(torch.cat([x, state[0]], dim=1), kernel, self.bias, padding=1)
            i, f, c, o = gates.chunk(4, dim=1)
            cell = _gate(f) * state[1] + _gate(i) * torch.tanh(c)
        hidden = _gate(o) * torch.tanh(cell)
        return functional.relu(self.norms[index](hidden)), (hidden, cell)


def _gate(x: Tensor) -> Tensor:
    return torch.clamp(0.2 * x + 0.5, 0, 1)


class FeedbackUNet(nn.Module):
    """`[N, 1, H, W]` -> logits of every round, `[R, N, K, H, W]`; the methods feedback-convlstm and unet."""

    def __init__(self, classes: int, widths: Sequence[int], *, convlstm: bool = True, rounds: int = 2) -> None:
        super().__init__()
        self.classes, self.rounds, self.levels = classes, rounds, len(widths)
        top, bottom = (ConvLSTM, ConvLSTM) if convlstm else (Convolution, Convolution)
        self.blocks = nn.ModuleDict()
        channels = classes if rounds > 1 else 1
        for level, features in enumerate(widths):
            place = "bottleneck" if level == self.levels - 1 else f"encoder_{level}"
            kind = bottom if place == "bottleneck" else top if level == 0 else Convolution
            self._double(place, kind, channels, features)
            channels = features
        self.ups = nn.ModuleDict()
        for level in reversed(range(self.levels - 1)):
            features = widths[level]
            self.ups[f"up_{level}"] = nn.ConvTranspose2d(channels, features, 2, 2)
            self._double(f"decoder_{level}", top if level == 0 else Convolution, 2 * features, features)
            channels = features
        self.output = nn.Conv2d(widths[0], classes, 1)

    def _double(self, place: str, kind: type[nn.Module], inputs: int, features: int) -> None:
        self.blocks[f"{place}_first"] = kind(inputs, features, self.rounds)
        self.blocks[f"{place}_second"] = kind(features, features, self.rounds)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of every round."""
        x = images.expand(-1, self.classes, -1, -1) if self.rounds > 1 else images
        states: dict[str, Any] = {}
        logits = []
        for index in range(self.rounds):
            logits.append(self._round(x, states, index).float())
            x = functional.softmax(logits[-1], dim=1)
        return torch.stack(logits)

    def _round(self, x: Tensor, states: dict[str, Any], index: int) -> Tensor:
        def double(x: Tensor, place: str) -> Tensor:
            for name in (f"{place}_first", f"{place}_second"):
                x, states[name] = self.blocks[name](x, states.get(name), index)
            return x

        skips = []
        for level in range(self.levels - 1):
            skips.append(double(x, f"encoder_{level}"))
            x = functional.max_pool2d(skips[-1], 2)
        x = double(x, "bottleneck")
        for level in reversed(range(self.levels - 1)):
            x = double(torch.cat([self.ups[f"up_{level}"](x), skips[level]], dim=1), f"decoder_{level}")
        return self.output(x)


def loss(logits: Tensor, labels: Tensor, weights: Tensor, round_weight: float = 0.5) -> Tensor:
    """Return lambda * L1 + L2 of weighted cross-entropies, each summed and divided by the number of pixels.

    Args:
      logits: `[R, N, K, H, W]`.
      labels: `[N, H, W]` int64.
      weights: `[K]`.
      round_weight: lambda.
    """
    losses = [functional.cross_entropy(each, labels, weights, reduction="sum") / labels.numel() for each in logits]
    return round_weight * sum(losses[:-1]) + losses[-1]


def load(model: FeedbackUNet, variables: Mapping[str, Any]) -> None:
    """Copy the parameters and running statistics of the JAX network (plain convolutions and ConvLSTMs)."""
    params, statistics = variables["params"]["unet"], variables["batch_stats"]["unet"]

    def put(target: Tensor, value: Any, order: Sequence[int] = ()) -> None:
        array = np.asarray(value, np.float32)
        target.data.copy_(torch.from_numpy(np.ascontiguousarray(array.transpose(order) if order else array)))

    for name, block in model.blocks.items():
        source = params[name]
        if isinstance(block, ConvLSTM):
            put(block.kernel, source["convlstm"]["kernel"], (3, 2, 0, 1))
            put(block.recurrent_kernel, source["convlstm"]["recurrent_kernel"], (3, 2, 0, 1))
            put(block.bias, source["convlstm"]["bias"])
        else:
            put(block.conv.weight, source["conv"]["kernel"], (3, 2, 0, 1))
            put(block.conv.bias, source["conv"]["bias"])
        for index, norm in enumerate(block.norms):
            put(norm.weight, source[f"norm_round_{index}"]["scale"])
            put(norm.bias, source[f"norm_round_{index}"]["bias"])
            put(norm.running_mean, statistics[name][f"norm_round_{index}"]["mean"])
            put(norm.running_var, statistics[name][f"norm_round_{index}"]["var"])
    for name, up in model.ups.items():
        # Flax correlates with the kernel, PyTorch spreads it: one is the other turned by half a circle
        put(up.weight, np.asarray(params[name]["kernel"])[::-1, ::-1], (2, 3, 0, 1))
        put(up.bias, params[name]["bias"])
    put(model.output.weight, params["output"]["kernel"], (3, 2, 0, 1))
    put(model.output.bias, params["output"]["bias"])
