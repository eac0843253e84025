"""Arguments that do not fit are refused with a ValueError that names the argument."""

from dataclasses import replace

import pytest
import torch

from halonet.ops import explain_backend, local_attention
from tests.ops.cases import BACKENDS, Case

FITTING = Case(
    map_size=(6, 5), block_size=4, halo_size=1, relative=True, bias=True, extra=2, extra_bias=True, batch=2, heads=2
)  # reach 4: tables of 9 rows


def arguments(**changes):
    """The arguments of a call that fits, changed. A change may be a function of the fitting argument."""
    tensors = FITTING.tensors(dtype=torch.float32, requires_grad=False)
    fitting = {**tensors, **FITTING.arguments}
    fitting["relative"] = (fitting.pop("height_table"), fitting.pop("width_table"))
    for name, change in changes.items():
        fitting[name] = change(fitting.get(name)) if callable(change) else change
    return fitting


def shape(*sizes, dtype=torch.float32):
    return lambda _: torch.zeros(sizes, dtype=dtype)


def dtype(kind):
    return lambda tensor: tensor.to(kind)


# id: (changed arguments, what the message names)
UNFIT = {
    "block-zero": ({"block_size": 0}, "block_size"),
    "block-negative": ({"block_size": (4, -1)}, "block_size"),
    "block-of-three-numbers": ({"block_size": (4, 4, 4)}, "block_size"),
    "block-fraction": ({"block_size": 4.0}, "block_size"),
    "block-bool": ({"block_size": True}, "block_size"),
    "block-text": ({"block_size": "4"}, "block_size"),
    "block-none": ({"block_size": None}, "block_size"),
    "halo-negative": ({"halo_size": -1}, "halo_size"),
    "halo-negative-side": ({"halo_size": (0, -2)}, "halo_size"),
    "halo-one-number-in-a-tuple": ({"halo_size": (1,)}, "halo_size"),
    "halo-fraction": ({"halo_size": 0.5}, "halo_size"),
    "stride-zero": ({"stride": 0}, "stride"),
    "stride-negative": ({"stride": -2}, "stride"),
    "stride-fraction": ({"stride": 1.5}, "stride"),
    "block-not-a-multiple-of-stride": ({"stride": 3, "query": shape(2, 2, 2, 2, 3)}, "block_size"),
    "one-side-not-a-multiple-of-stride": (
        {
            "stride": 2,
            "query": shape(2, 3, 3, 2, 3),
            "block_size": (4, 3),
            "relative": (torch.zeros(9, 3), torch.zeros(7, 3)),
            "bias": shape(2, 9, 7),
        },
        "block_size",
    ),
    "query-of-rank-4": ({"query": shape(2, 6, 5, 3)}, "query"),
    "key-of-rank-4": ({"key": shape(2, 6, 5, 3)}, "key"),
    "value-of-rank-6": ({"value": shape(2, 6, 5, 2, 4, 1)}, "value"),
    "query-not-a-tensor": ({"query": [[1.0]]}, "query"),
    "query-map-too-large-for-the-stride": ({"stride": 2}, "query"),
    "query-map-rounded-down": ({"stride": 2, "query": shape(2, 3, 2, 2, 3)}, "query"),
    "query-map-of-another-size": ({"query": shape(2, 6, 6, 2, 3)}, "query"),
    "key-batch": ({"key": shape(1, 6, 5, 2, 3)}, "key"),
    "value-batch": ({"value": shape(3, 6, 5, 2, 4)}, "value"),
    "key-heads": ({"key": shape(2, 6, 5, 1, 3)}, "key"),
    "value-heads": ({"value": shape(2, 6, 5, 4, 4)}, "value"),
    "key-channels": ({"key": shape(2, 6, 5, 2, 4)}, "key"),
    "value-map": ({"value": shape(2, 5, 6, 2, 4)}, "value"),
    "integer-maps": ({name: dtype(torch.int64) for name in ("query", "key", "value")}, "query"),
    "integer-value": ({"value": dtype(torch.int32)}, "value"),
    "bool-key": ({"key": dtype(torch.bool)}, "key"),
    "complex-query": ({"query": dtype(torch.complex64)}, "query"),
    "double-query": ({"query": dtype(torch.float64)}, "key|query"),
    "half-key": ({"key": dtype(torch.float16)}, "key"),
    "half-value": ({"value": dtype(torch.bfloat16)}, "value"),
    "half-extra-key": ({"extra_key": dtype(torch.float16)}, "extra_key"),
    "half-extra-value": ({"extra_value": dtype(torch.float16)}, "extra_value"),
    "value-on-another-device": ({"value": lambda tensor: tensor.to("meta")}, "value"),
    "empty-map": (
        {"query": shape(2, 0, 5, 2, 3), "key": shape(2, 0, 5, 2, 3), "value": shape(2, 0, 5, 2, 4)},
        "query|key|value",
    ),
    "empty-width": (
        {"query": shape(2, 6, 0, 2, 3), "key": shape(2, 6, 0, 2, 3), "value": shape(2, 6, 0, 2, 4)},
        "query|key|value",
    ),
    "no-channels": ({"query": shape(2, 6, 5, 2, 0), "key": shape(2, 6, 5, 2, 0)}, "query|key"),
    "no-value-channels": ({"value": shape(2, 6, 5, 2, 0), "extra_value": shape(2, 2, 2, 0)}, "value"),
    "border-unknown": ({"border": "reflect"}, "border"),
    "border-none": ({"border": None}, "border"),
    "window-even": ({"window": 4}, "window"),
    "window-zero": ({"window": 0}, "window"),
    "window-negative": ({"window": -3}, "window"),
    "window-pair": ({"window": (3, 3)}, "window"),
    "window-fraction": ({"window": 3.0}, "window"),
    "window-bool": ({"window": True}, "window"),
    "dilation-zero": ({"dilation": 0}, "dilation"),
    "dilation-fraction": ({"dilation": 1.5}, "dilation"),
    "neighbors-zero": ({"neighbors": 0}, "neighbors"),
    "neighbors-nine": ({"neighbors": 9}, "neighbors"),
    "neighbors-negative": ({"neighbors": -1}, "neighbors"),
    "neighbors-list": ({"neighbors": [1, 2]}, "neighbors"),
    "window-and-neighbors": ({"window": 3, "neighbors": 1}, "window.*neighbors|neighbors.*window"),
    "one-table": ({"relative": torch.zeros(9, 3)}, "relative"),
    "three-tables": ({"relative": tuple(torch.zeros(9, 3) for _ in range(3))}, "relative"),
    "height-table-too-short": ({"relative": (torch.zeros(8, 3), torch.zeros(9, 3))}, "relative.*height"),
    "width-table-of-timm-s-length": ({"relative": (torch.zeros(9, 3), torch.zeros(11, 3))}, "relative.*width"),
    "table-of-another-width": ({"relative": (torch.zeros(9, 4), torch.zeros(9, 3))}, "relative.*height"),
    "split-table": ({"relative": (torch.zeros(9, 3), torch.zeros(9, 1))}, "relative.*width"),
    "table-of-rank-3": ({"relative": (torch.zeros(2, 9, 3), torch.zeros(9, 3))}, "relative.*height"),
    "integer-table": ({"relative": (torch.zeros(9, 3), torch.zeros(9, 3, dtype=torch.long))}, "relative.*width"),
    "table-missing": ({"relative": (torch.zeros(9, 3), None)}, "relative.*width"),
    "bias-heads": ({"bias": shape(1, 9, 9)}, "bias"),
    "bias-rows": ({"bias": shape(2, 8, 9)}, "bias"),
    "bias-columns": ({"bias": shape(2, 9, 11)}, "bias"),
    "bias-rank": ({"bias": shape(9, 9)}, "bias"),
    "bias-integer": ({"bias": shape(2, 9, 9, dtype=torch.long)}, "bias"),
    "extra-key-alone": ({"extra_value": None, "extra_bias": None}, "extra_value"),
    "extra-value-alone": ({"extra_key": None, "extra_bias": None}, "extra_key"),
    "extra-bias-alone": ({"extra_key": None, "extra_value": None}, "extra_bias"),
    "extra-key-rank": ({"extra_key": shape(2, 2, 6)}, "extra_key"),
    "extra-key-batch": ({"extra_key": shape(1, 2, 2, 3)}, "extra_key"),
    "extra-key-heads": ({"extra_key": shape(2, 2, 1, 3)}, "extra_key"),
    "extra-key-channels": ({"extra_key": shape(2, 2, 2, 4)}, "extra_key"),
    "extra-value-channels": ({"extra_value": shape(2, 2, 2, 3)}, "extra_value"),
    "extra-value-count": ({"extra_value": shape(2, 3, 2, 4)}, "extra_value"),
    "extra-bias-count": ({"extra_bias": shape(2, 3)}, "extra_bias"),
    "extra-bias-order": (
        {"extra_bias": shape(3, 2), "extra_key": shape(2, 3, 2, 3), "extra_value": shape(2, 3, 2, 4)},
        "extra_bias",
    ),
    "integer-extra-key": ({"extra_key": dtype(torch.long)}, "extra_key"),
    "scale-text": ({"scale": "auto"}, "scale"),
    "scale-tensor": ({"scale": torch.ones(2)}, "scale"),
    "relative-stride-zero": ({"relative_stride": 0}, "relative_stride"),
    "relative-stride-beyond-stride": ({"relative_stride": 2}, "relative_stride"),
    "relative-stride-fraction": ({"relative_stride": 1.0}, "relative_stride"),
    "backend-unknown": ({"backend": "cudnn"}, "backend"),
    "backend-none": ({"backend": None}, "backend"),
}


@pytest.mark.parametrize("function", [local_attention, explain_backend], ids=lambda function: function.__name__)
@pytest.mark.parametrize("name", UNFIT)
def test_unfit_arguments_are_named(name, function):
    changes, named = UNFIT[name]
    with pytest.raises(ValueError, match=rf"(?s)\b({named})") as caught:
        function(**arguments(**changes))
    message = str(caught.value)
    absent = "must be given" in message or "needs" in message  # nothing came that could be shown
    assert absent or "got" in message, f"what came is not said: {message}"


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
def test_the_fitting_call_fits(backend):
    """The cases above fail for the change alone."""
    output = local_attention(**arguments(backend=backend))
    assert output.shape == (2, 6, 5, 2, 4)
    assert output.isfinite().all()


def test_messages_give_what_was_expected_and_what_came():
    with pytest.raises(ValueError, match=r"(?s)\(9, 3\).*\(8, 3\)"):
        local_attention(**arguments(relative=(torch.zeros(8, 3), torch.zeros(9, 3))))
    with pytest.raises(ValueError, match=r"(?s)\(2, 9, 9\).*\(2, 9, 7\)"):
        local_attention(**arguments(bias=torch.zeros(2, 9, 7)))
    with pytest.raises(ValueError, match=r"(?s)\(3, 3\).*\(6, 5\)"):
        local_attention(**arguments(stride=2))


def test_options_are_keyword_only():
    tensors = FITTING.tensors(requires_grad=False)
    with pytest.raises(TypeError):
        local_attention(tensors["query"], tensors["key"], tensors["value"], 4, 1)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_every_relative_stride_up_to_the_stride_is_taken(stride):
    case = replace(FITTING, options={"stride": stride})
    tensors = case.tensors(requires_grad=False)
    tables = (tensors.pop("height_table"), tensors.pop("width_table"))
    for relative_stride in range(1, stride + 1):
        output = local_attention(**tensors, **case.arguments, relative=tables, relative_stride=relative_stride)
        assert output.isfinite().all()
