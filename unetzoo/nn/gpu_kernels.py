"""Triton kernels: resampling of maps whose channels are last, with the shifted sums of a convolution's taps.

torch's own kernels reach a twentieth to a fifth of a GPU's bandwidth, and their backward pass adds with atomics, in an
order that changes from run to run. These write each number once, add in float32 (in float64 for float64), and are
deterministic. A map is read by its neighbours' programs at the same time, so it comes from the cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

# A program for each of these sizes would be compiled in a second each, and be no faster.
SIZES = ["h", "w", "height", "width", "rows", "columns", "padding"]


@triton.jit
def _place(rows, columns, wide: tl.constexpr, deep: tl.constexpr):
    """Return what a program writes of maps of rows × columns: the image, the row, the pixels in it, the channels."""
    panels = tl.cdiv(columns, wide)
    line = tl.program_id(0) // panels
    across = (tl.program_id(0) % panels) * wide + tl.arange(0, wide)
    channel = tl.program_id(1) * deep + tl.arange(0, deep)
    return (line // rows).to(tl.int64), line % rows, across, channel


@triton.jit(do_not_specialize=SIZES)
def resample(
    x, out, bias, row_low, row_part, column_low, column_part,
    h, w, height, width, rows, columns, channels, padding,
    x_image, x_row, x_column, out_image, out_row, out_column,
    row_taps: tl.constexpr, column_taps: tl.constexpr, linear: tl.constexpr, biased: tl.constexpr,
    wide: tl.constexpr, deep: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """Resample a map of a part for each tap, shift the parts, and add them.

    out[n, i, j, o] = bias[o] + Σ over taps (a, b) of resampled(x)[n, i + a - padding, j + b - padding, (b, a, o)],
    0 outside of the map. A program computes ``wide`` pixels of a row, of ``deep`` channels.

    Args:
        x, out, bias: see above; out and the parts of x have the number of channels.
        row_low, row_part, column_low, column_part: ``_Reads.low`` and ``.part`` of both sides.
        h, w: size of x.
        height, width: size that it is resampled to.
        rows, columns: size of out.
        x_image, x_row, x_column, out_image, ...: strides, in numbers.
        dtype: in which it adds.
    """
    n, y, across, channel = _place(rows, columns, wide, deep)
    inside = (across < columns)[:, None] & (channel < channels)[None, :]
    total = tl.zeros((wide, deep), dtype=dtype)
    if biased:
        total += tl.load(bias + channel, mask=channel < channels, other=0.0).to(dtype)[None, :]
    for b in tl.static_range(column_taps):
        column = across + b - padding
        valid = (column >= 0) & (column < width) & (across < columns)
        left = tl.load(column_low + column, mask=valid, other=0)
        right = tl.minimum(left + 1, w - 1)
        if linear:
            to_right = tl.load(column_part + column, mask=valid, other=0.0)[:, None]
        for a in tl.static_range(row_taps):
            row = y + a - padding
            there = (row >= 0) & (row < height)
            mask = valid[:, None] & inside & there
            top = tl.load(row_low + row, mask=there, other=0)
            group = x + n * x_image + ((b * row_taps + a) * channels + channel)[None, :]
            upper = group + top.to(tl.int64) * x_row
            value = tl.load(upper + left[:, None].to(tl.int64) * x_column, mask=mask, other=0.0).to(dtype)
            if linear:
                to_below = tl.load(row_part + row, mask=there, other=0.0)
                lower = group + tl.minimum(top + 1, h - 1).to(tl.int64) * x_row
                beside = tl.load(upper + right[:, None].to(tl.int64) * x_column, mask=mask, other=0.0).to(dtype)
                below = tl.load(lower + left[:, None].to(tl.int64) * x_column, mask=mask, other=0.0).to(dtype)
                corner = tl.load(lower + right[:, None].to(tl.int64) * x_column, mask=mask, other=0.0).to(dtype)
                value = (1 - to_right) * value + to_right * beside
                value = (1 - to_below) * value + to_below * ((1 - to_right) * below + to_right * corner)
            total += value
    place = out + n * out_image + y.to(tl.int64) * out_row
    place += across[:, None].to(tl.int64) * out_column + channel[None, :]
    tl.store(place, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def adjoint(
    grad, out, row_low, row_part, row_first, column_low, column_part, column_first,
    h, w, height, width, rows, columns, channels, padding,
    grad_image, grad_row, grad_column, out_image, out_row, out_column,
    row_taps: tl.constexpr, linear: tl.constexpr,
    most_rows: tl.constexpr, most_columns: tl.constexpr,
    wide: tl.constexpr, deep: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """Do the adjoint of :func:`resample`: a number of ``out`` adds up the numbers of ``grad`` that were made from it.

    Args, besides those of :func:`resample`, where out is grad, and x is out:
        row_first, column_first: ``_Reads.first``.
        most_rows, most_columns: ``_Reads.most``.
    """
    n, y, across, channel = _place(h, w, wide, deep)
    b = tl.program_id(2) // row_taps
    a = tl.program_id(2) % row_taps
    inside = (across < w)[:, None] & (channel < channels)[None, :]
    total = tl.zeros((wide, deep), dtype=dtype)
    top = tl.load(row_first + y)
    left = tl.load(column_first + across, mask=across < w, other=0)
    source = grad + n * grad_image + channel[None, :]
    for i in range(most_rows):
        row = top + i
        line_out = row - a + padding
        there = (row < height) & (line_out >= 0) & (line_out < rows)
        low = tl.load(row_low + row, mask=there, other=-2)
        weight_y = (low == y).to(dtype)
        if linear:
            part_y = tl.load(row_part + row, mask=there, other=0.0)
            weight_y = weight_y * (1 - part_y) + (tl.minimum(low + 1, h - 1) == y).to(dtype) * part_y
        for j in range(most_columns):
            column = left + j
            column_out = column - b + padding
            valid = (column < width) & (column_out >= 0) & (column_out < columns) & (across < w)
            near = tl.load(column_low + column, mask=valid, other=-2)
            weight_x = (near == across).to(dtype)
            if linear:
                part_x = tl.load(column_part + column, mask=valid, other=0.0)
                weight_x = weight_x * (1 - part_x) + (tl.minimum(near + 1, w - 1) == across).to(dtype) * part_x
            weight = weight_x * weight_y
            mask = inside & (weight != 0)[:, None] & there
            place = source + line_out.to(tl.int64) * grad_row + column_out[:, None].to(tl.int64) * grad_column
            total += weight[:, None] * tl.load(place, mask=mask, other=0.0).to(dtype)
    place = out + n * out_image + y.to(tl.int64) * out_row + across[:, None].to(tl.int64) * out_column
    place += tl.program_id(2) * channels + channel[None, :]
    tl.store(place, total.to(out.dtype.element_ty), mask=inside)
