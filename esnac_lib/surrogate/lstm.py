"""Bidirectional LSTMs over sequences of different lengths: several networks at once, their gradient in closed form.

What `nn.LSTM` computes for packed sequences, arranged so that nothing is computed that is not needed. The rows of all
sequences lie behind one another by time, the longest sequence first, so that a step of time is one block without
padding. The products with the inputs are made for all rows at once; a step of time is then one batched product with
the last hidden states of all networks and both directions, and a few element-wise operations on what is still in the
cache. The backward direction runs over mirrored sequences, in the same blocks. All buffers, and all views of them,
are made once and serve every pass.

Two habits make one `sigmoid` do for everything (on a CPU PyTorch's tanh takes ten times as long): tanh x = 2σ(2x) - 1,
where the rows of the cell gate are doubled beforehand, and the cell state is kept doubled. That costs 1e-7 of absolute
precision in float32, which is what float32 has near 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from esnac_lib.surrogate.packing import Packing

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


class Weights(NamedTuple):
    """One layer of G networks, both directions, as nn.LSTM has them: gates in the order i, f, g, o; H hidden units."""

    ih: Tensor  # (G, 2, 4H, d)
    hh: Tensor  # (G, 2, 4H, H)
    bias_ih: Tensor  # (G, 2, 4H)
    bias_hh: Tensor  # (G, 2, 4H)


class _Step(NamedTuple):
    """Views for one step of time; N = 2G networks and directions, B = rows, H = hidden units; d…: gradients."""

    last: Tensor  # (N, B, H): the hidden state before the step
    gates: Tensor  # (N, B, 4H): σ of what follows
    i: Tensor  # (N, B, H)
    f: Tensor
    s: Tensor  # the cell gate is 2s - 1
    o: Tensor
    cell: Tensor  # the doubled cell gate
    before: Tensor  # the doubled cell state before the step, and after it
    after: Tensor
    tanh: Tensor  # of the cell state
    h: Tensor  # the hidden state after the step
    lasting: Tensor  # of h the rows (N, B', H) that the next step goes on with
    read: Tensor  # where the next step reads them
    dh: Tensor  # and `dlasting`, `dread`, `dlast`: of h, lasting, read and last
    dlasting: Tensor
    dread: Tensor
    dlast: Tensor
    dc: Tensor  # (N, B, H): of the doubled cell state
    scratch: Tensor  # (N, B, H)
    dgates: Tensor  # (N, B, 4H), and its parts
    di: Tensor
    df: Tensor
    ds: Tensor
    do: Tensor


class _Gradients:
    """Buffers that the layers use one after the other on the way back."""

    def __init__(self, packing: Packing, hidden: int, like: Tensor) -> None:
        count, total, first = 2 * packing.networks, packing.total, packing.counts[0]
        self.gates = like.new_empty(count, total, 4 * hidden)
        self.last, self.h = (like.new_empty(count, total, hidden) for _ in range(2))
        self.c, self.scratch = (like.new_empty(count, first, hidden) for _ in range(2))


class _Layer:
    """One layer, both directions of all networks.

    x (N, T, d): its inputs, to be filled in; h (N, T, H): its hidden states.
    """

    def __init__(self, packing: Packing, inputs: int, hidden: int, like: Tensor, gradients: _Gradients) -> None:
        self.packing, self.hidden, self.gradients = packing, hidden, gradients
        count, total, first = 2 * packing.networks, packing.total, packing.counts[0]
        self.x = like.new_empty(count, total, inputs)
        self.h = like.new_empty(count, total, hidden)
        self._last = like.new_zeros(count, total, hidden)
        self._gates = like.new_empty(count, total, 4 * hidden)
        self._cell, self._tanh = (like.new_empty(count, total, hidden) for _ in range(2))
        self._states = like.new_empty(count, first + total, hidden)
        self._less = _less(like)
        self._steps = [self._views(t) for t in range(len(packing.counts))]

    def _views(self, t: int) -> _Step:
        starts, counts, buffers = self.packing.starts, [*self.packing.counts, 0], self.gradients
        here, rows, following = slice(starts[t], starts[t + 1]), slice(0, counts[t]), slice(0, counts[t + 1])
        reading = slice(starts[t + 1], starts[t + 1] + counts[t + 1])
        # The states after step t - 1 lie before those after step t; zeros before the first.
        shift = counts[0] - counts[t - 1] if t else 0
        before = self._states[:, starts[t] + shift : starts[t] + shift + counts[t]]
        after = self._states[:, counts[0] + starts[t] : counts[0] + starts[t + 1]]
        gates, dgates = self._gates[:, here], buffers.gates[:, here]
        h, dh = self.h[:, here], buffers.h[:, here]
        views: tuple[Tensor, ...] = (
            self._last[:, here], gates, *gates.split(self.hidden, dim=2), self._cell[:, here], before, after,
            self._tanh[:, here], h, h[:, following], self._last[:, reading],
            dh, dh[:, following], buffers.last[:, reading], buffers.last[:, here],
            buffers.c[:, rows], buffers.scratch[:, rows], dgates, *dgates.split(self.hidden, dim=2),
        )  # fmt: skip
        return _Step(*views)

    def forward(self, ih: Tensor, hh: Tensor, bias: Tensor) -> None:
        """Fill `h`. ih (N, 4H, d), hh (N, 4H, H), bias (N, 4H), in each the cell gate's rows doubled."""
        self._states[:, : self.packing.counts[0]] = 0
        projected = [linear(*parts).split(self.packing.counts) for parts in zip(self.x, ih, bias, strict=True)]
        hh = hh.mT
        for step, inputs in zip(self._steps, zip(*projected, strict=True), strict=True):
            torch.stack(inputs, out=step.gates)
            step.gates.baddbmm_(step.last, hh).sigmoid_()
            gates, state = (step.i, step.f, step.s, step.o), step.before
            _advance(gates, state, self._less, cell=step.cell, after=step.after, tanh=step.tanh, h=step.h)
            step.read.copy_(step.lasting)

    def backward(self, hh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From the gradient of `h` in the buffers those of the weights (N, 4H, d), (N, 4H, H) and of the bias (N, 4H).

        hh (N, 4H, H): the weights with the cell gate's rows times 8, for in all that comes back, as in the buffers'
        gradient of the gates, the cell gate's rows are an eighth of what they should be: 2·4, from 2σ(2x) doubled.
        """
        self.gradients.c.zero_()
        for step in reversed(self._steps):
            step.dlasting.add_(step.dread)
            torch.mul(step.dh, step.o, out=step.scratch)
            _tanh_backward(step.scratch, step.tanh, grad_input=step.scratch)
            step.dc.add_(step.scratch, alpha=0.5)
            torch.mul(step.dc, step.cell, out=step.di)
            torch.mul(step.dc, step.before, out=step.df)
            torch.mul(step.dc, step.i, out=step.ds)
            torch.mul(step.dh, step.tanh, out=step.do)
            _sigmoid_backward(step.dgates, step.gates, grad_input=step.dgates)
            step.dc.mul_(step.f)
            torch.bmm(step.dgates, hh, out=step.dlast)
        by_gate = [dgates.mT.contiguous() for dgates in self.gradients.gates]  # each (4H, T)
        ih = torch.stack([linear(d, x.mT) for d, x in zip(by_gate, self.x, strict=True)])
        hh = torch.stack([linear(d, last.mT) for d, last in zip(by_gate, self._last, strict=True)])
        return ih, hh, self.gradients.gates.sum(1)


class BiLstm:
    """G networks of some layers, with buffers for their sequences, which stay the same from pass to pass.

    inputs: (G, T, d) as `packing.arrange` gives them. With 4 layers of 64 units, in float32, the buffers take 23 KB a
    row and network.
    """

    def __init__(self, packing: Packing, inputs: Tensor, hidden: int, depth: int) -> None:
        self.packing, self.hidden = packing, hidden
        self._gradients = _Gradients(packing, hidden, inputs)
        first = _Layer(packing, inputs.shape[2], hidden, inputs, self._gradients)
        mirrored = torch.stack([own[mirror] for own, mirror in zip(inputs, packing.mirror, strict=True)])
        first.x.copy_(torch.stack([inputs, mirrored], 1).flatten(0, 1))
        others = [_Layer(packing, 2 * hidden, hidden, inputs, self._gradients) for _ in range(depth - 1)]
        self._layers = [first, *others]
        rows = packing.real.to(inputs.dtype).repeat_interleave(2, 0).unsqueeze(2)  # (N, T, 1)
        self._real = rows.split(packing.counts, dim=1)
        self._weights: Sequence[Weights] = ()
        self._doubled = _doubled(hidden, inputs)
        self._eightfold = self._doubled**3

    def forward(self, weights: Sequence[Weights]) -> Tensor:
        """Return the last layer's hidden states, averaged over each sequence: (G, n, 2H) by rank; 0 where none is."""
        self._weights = weights
        h = self._layers[0].h
        for number, (layer, weight) in enumerate(zip(self._layers, weights, strict=True)):
            if number:
                self._hand_on(h, layer.x)
            bias = (weight.bias_ih + weight.bias_hh) * self._doubled
            ih, hh = (part * self._doubled.unsqueeze(1) for part in (weight.ih, weight.hh))
            layer.forward(ih.flatten(0, 1), hh.flatten(0, 1), bias.flatten(0, 1))
            h = layer.h
        sums = h.new_zeros(len(h), self.packing.counts[0], self.hidden)
        for states, real in zip(h.split(self.packing.counts, dim=1), self._real, strict=True):
            sums[:, : states.shape[1]].addcmul_(states, real)
        return sums.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2) / self._lengths

    def backward(self, gradient: Tensor) -> list[Weights]:
        """Return the gradients of the weights of the last `forward`, from that of its result, (G, n, 2H)."""
        networks, hidden = self.packing.networks, self.hidden
        sums = (gradient / self._lengths).unflatten(2, (2, hidden)).transpose(1, 2).flatten(0, 1)  # (N, n, H)
        for dh, real in zip(self._gradients.h.split(self.packing.counts, dim=1), self._real, strict=True):
            torch.mul(sums[:, : dh.shape[1]], real, out=dh)
        found: list[Weights] = []
        for number in reversed(range(len(self._layers))):
            hh = self._weights[number].hh * self._eightfold.unsqueeze(1)
            dih, dhh, dbias = self._layers[number].backward(hh.flatten(0, 1))
            dih, dhh = (part * self._eightfold.unsqueeze(1) for part in (dih, dhh))
            dbias = (dbias * self._eightfold).unflatten(0, (networks, 2))
            found.append(Weights(dih.unflatten(0, (networks, 2)), dhh.unflatten(0, (networks, 2)), dbias, dbias))
            if number:
                self._hand_back(self._weights[number].ih * self._eightfold.unsqueeze(1))
        return found[::-1]

    @property
    def _lengths(self) -> Tensor:
        return self.packing.lengths.clamp_min(1).unsqueeze(2)

    def _hand_on(self, h: Tensor, x: Tensor) -> None:
        """Return hidden states (N, T, H) as inputs (N, T, 2H); the second direction's are mirrored on both sides."""
        own, size = self.packing.mirror, self.hidden
        for network, mirror in enumerate(own):
            ahead, back = h[2 * network], h[2 * network + 1]
            x[2 * network, :, :size], x[2 * network, :, size:] = ahead, back[mirror]
            x[2 * network + 1, :, :size], x[2 * network + 1, :, size:] = ahead[mirror], back

    def _hand_back(self, ih: Tensor) -> None:
        """From the gates' gradient that of the hidden states of the layer below, into the buffers."""
        dgates, dh, size = self._gradients.gates, self._gradients.h, self.hidden
        for network, mirror in enumerate(self.packing.mirror):
            ahead, back = (linear(dgates[2 * network + way], ih[network, way].mT) for way in (0, 1))  # (T, 2H)
            torch.add(ahead[:, :size], back[:, :size][mirror], out=dh[2 * network])
            torch.add(back[:, size:], ahead[:, size:][mirror], out=dh[2 * network + 1])


def averaged(packing: Packing, rows: Tensor, weights: Sequence[Weights]) -> Tensor:
    """Return the hidden states of the last layer of one network, averaged over each of its sequences: (n, 2H) by rank.

    rows: (T, d) as `packing.arrange` gives them. As `BiLstm.forward` with G = 1, without what a way back needs: no
    buffer outlives its layer.
    """
    hidden, mirror = weights[0].hh.shape[3], packing.mirror[0]
    doubled = _doubled(hidden, rows)
    states = rows.new_empty(2, packing.total, hidden)
    gates = rows.new_empty(2, packing.total, 4 * hidden)
    inputs = [rows, rows[mirror]]
    for number, weight in enumerate(weights):
        if number:
            ahead, back = states
            inputs = [torch.cat([ahead, back[mirror]], 1), torch.cat([ahead[mirror], back], 1)]
        bias = (weight.bias_ih + weight.bias_hh)[0] * doubled
        ih, hh = (part[0] * doubled.unsqueeze(1) for part in (weight.ih, weight.hh))
        for way in (0, 1):
            gates[way] = linear(inputs[way], ih[way], bias[way])
        _run(packing, gates, hh.mT, states)
    sums = rows.new_zeros(2, packing.counts[0], hidden)
    for part in states.split(packing.counts, dim=1):
        sums[:, : part.shape[1]] += part
    return torch.cat([sums[0], sums[1]], 1) / packing.lengths[0].unsqueeze(1)


def _run(packing: Packing, gates: Tensor, hh: Tensor, states: Tensor) -> None:
    """Fill `states` (2, T, H), both directions of one layer, from the products with its inputs (2, T, 4H), in place."""
    hidden, first = states.shape[2], packing.counts[0]
    cells, scratch = states.new_zeros(2, first, hidden), states.new_empty(2, first, hidden)  # the doubled cell state
    less, last = _less(states), states[:, :0]
    for start, count in zip(packing.starts, packing.counts, strict=False):
        now, h = gates[:, start : start + count], states[:, start : start + count]
        if start:
            now.baddbmm_(last[:, :count], hh)
        state, other = cells[:, :count], scratch[:, :count]
        _advance(now.sigmoid_().split(hidden, dim=2), state, less, cell=other, after=state, tanh=other, h=h)
        last = h


def _advance(
    gates: Sequence[Tensor], before: Tensor, less: tuple[Tensor, Tensor],
    *, cell: Tensor, after: Tensor, tanh: Tensor, h: Tensor,
) -> None:  # fmt: skip
    """One step of time from the gates' σ: fills cell, after, tanh and h (compare `_Step`).

    `after` may be `before`, and `tanh` `cell`, where the first of the two is needed no more.
    """
    i, f, s, o = gates
    less_two, less_one = less
    torch.add(less_two, s, alpha=4, out=cell)
    torch.mul(f, before, out=after).addcmul_(i, cell)
    torch.sigmoid(after, out=tanh)
    torch.add(less_one, tanh, alpha=2, out=tanh)
    torch.mul(o, tanh, out=h)


def _less(like: Tensor) -> tuple[Tensor, Tensor]:
    """-2 and -1."""
    return like.new_tensor(-2.0), like.new_tensor(-1.0)


def _doubled(hidden: int, like: Tensor) -> Tensor:
    """(4H,): 2 for the cell gate, 1 for the others."""
    return 1 + (torch.arange(4 * hidden, device=like.device) // hidden == 2).to(like.dtype)


def linear(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a (M, K) times b (N, K)ᵀ, plus bias (N,).

    Large float32 products on a CPU go to oneDNN where PyTorch offers it: on AMD's processors with AVX-512 that is twice
    as fast as MKL, which PyTorch multiplies with by itself.
    """
    if a.dtype == torch.float32 and a.device.type == "cpu" and _ONEDNN:
        return _ONEDNN(a, b, bias, "none", [], "")
    return torch.nn.functional.linear(a, b, bias)


_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
