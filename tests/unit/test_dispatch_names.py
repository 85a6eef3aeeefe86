"""What the compiler's names of dispatches tell of their work; the names are ones that real profiles hold."""

from __future__ import annotations

import pytest

from hwc.predict.dispatch_names import Work, estimate


@pytest.mark.parametrize(
    ("name", "flops", "traffic_bytes"),
    [
        ("async_dispatch_1_matmul_1x512x512_f32", 2 * 512 * 512, 4 * (512 + 512 * 512 + 512)),
        ("async_dispatch_6_matmul_like_8x10x128_f32", 2 * 8 * 10 * 128, 4 * (8 * 128 + 128 * 10 + 8 * 10)),
        ("async_dispatch_3_matmul_like_12x128x32x384_f32", 2 * 12 * 128 * 32 * 384, 4 * 12 * 128 * 32),
        ("async_dispatch_7_batch_matmul_12x16x32x16_f32", 2 * 12 * 16 * 32 * 16, 4 * 12 * (16 * 48 + 16 * 32)),
        ("async_dispatch_5_matvec_like_128x2048_f32", 2 * 128 * 2048, 4 * (128 * 2048 + 2048 + 128)),
        ("async_dispatch_1_conv_16x32x32x3x3x3_f32", 2 * 16 * 1024 * 27, 4 * (3 * 1024 + 16 * 27 + 16 * 1024)),
        (
            "async_dispatch_1_conv_8x16x32x32x3x3x3_f32", 2 * 8 * 16 * 1024 * 27,
            4 * (8 * 3 * 1024 + 16 * 27 + 8 * 16 * 1024),
        ),
        ("async_dispatch_2_conv_16x16x16x2x2_f32", 2 * 16 * 256 * 4, 0),
        ("async_dispatch_6_softmax_12x16x16xf32_dispatch_tensor_store", 5 * 12 * 256, 8 * 12 * 256),
        ("async_dispatch_2_elementwise_8192x32_i4xf16xf32", 8192 * 32, 4.5 * 8192 * 32),
        ("async_dispatch_5_elementwise_262144_i8xf32", 262144, 5 * 262144),
        ("async_dispatch_1_elementwise_broadcast_128x128_i64xf32", 128 * 128, 4 * 128 * 128),
        ("async_dispatch_9_reduction_128x384_f32", 128 * 384, 4 * 128 * 384),
    ],
)
def test_a_real_name_tells_its_work(name: str, flops: float, traffic_bytes: float) -> None:
    assert estimate(name) == Work(flops=flops, traffic_bytes=traffic_bytes)


@pytest.mark.parametrize(
    "name",
    [
        "async_dispatch_0_slow_memcpy", "", "matmul", "matmul_8_f32", "matmul_8x8x8", "matmul_0x8x8_f32",
        "batch_matmul_8x8x8_f32", "async_dispatch_1_unpack_8x8_f32", "matmul_DxDx8_f32",
        "matmul_" + "9x" * 200 + "9_f32",
        "<script>matmul_8x8x8_f32", "matmul_8x8x8_f32<script>",
    ],
)
def test_a_name_that_tells_no_work_gets_no_estimate(name: str) -> None:
    assert estimate(name) is None


def test_weights_that_are_decoded_on_the_way_are_counted_at_their_stored_width() -> None:
    name = "async_dispatch_0_matvec_like_512x8x32_f32"
    plain, coded = estimate(name), estimate(name, weight_bits=4)
    assert plain is not None
    assert coded is not None
    assert plain.flops == coded.flops == 2 * 512 * 256
    assert plain.traffic_bytes - coded.traffic_bytes == 512 * 256 * 3.5


def test_the_width_of_stored_weights_does_not_touch_a_plain_product() -> None:
    name = "async_dispatch_0_matmul_16x512x256_f32"
    assert estimate(name, weight_bits=4) == estimate(name)


def test_the_bound_is_the_slower_of_arithmetic_and_memory() -> None:
    work = Work(flops=1e9, traffic_bytes=1e6)
    assert work.bound_s(1e9, 1e9) == 1.0
    assert work.bound_s(1e12, 1e6) == 1.0
    assert work.flop_per_byte == 1000
