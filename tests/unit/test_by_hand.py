"""What an order by hand means for a node's target."""

from __future__ import annotations

import msgspec
import pytest
from support import a_target, telemetry

from clover.agents.orders import Order, cut, empty, fill, target_of
from clover.bus.messages import EnergyCounters, GpuTarget, GpuTelemetry, InstanceTarget, InstanceTelemetry, Target
from clover.errors import ConfigurationError


def gpu(index: int, *kinds: tuple[str, str]) -> GpuTelemetry:
    instances = tuple(
        InstanceTelemetry(
            profile=profile, start=start, size=1, uuid="", variant=variant, phase="idle", served=0, busy_s=0.0
        )
        for start, (profile, variant) in enumerate(kinds)
    )
    return GpuTelemetry(
        index=index,
        uuid=f"GPU-{index}",
        phase="serving" if kinds else "parked",
        reason="",
        since_ms=0.0,
        applied_epoch=1,
        instances=instances,
        energy=EnergyCounters(requests_j={}, idle_j=0.0),
    )


NODE = msgspec.structs.replace(telemetry(), gpus=(gpu(0, ("4g", "base"), ("3g", "large")), gpu(1)))


def told(target: Target) -> dict[int, str]:
    return {gpu.index: " ".join(f"{i.profile}:{i.variant}" for i in gpu.instances) or gpu.mode for gpu in target.gpus}


def test_an_order_is_a_complete_target_and_the_other_gpus_stay() -> None:
    sent = target_of(NODE, None, cut(("3g", "4g"), ("large", "base")), [1], reason="r")
    assert told(sent.target) == {0: "4g:base 3g:large", 1: "4g:base 3g:large"}
    assert sent.changed == (1,)
    assert (sent.target.node, sent.target.application) == (NODE.node, NODE.application)


def test_what_the_newest_target_says_comes_before_what_the_node_does() -> None:
    newest = a_target(
        NODE.node, gpus=(GpuTarget(index=0, mode="serving", instances=(InstanceTarget(profile="7g", variant="base"),)),)
    )
    assert told(target_of(NODE, newest, empty("off"), [1], reason="r").target) == {0: "7g:base", 1: "off"}


def test_other_variants_go_on_the_partition_that_is_there() -> None:
    assert told(target_of(NODE, None, fill(["large", "base"]), [0], reason="r").target)[0] == "4g:large 3g:base"
    assert told(target_of(NODE, None, fill(["base"]), [0], reason="r").target)[0] == "4g:base 3g:base"
    assert told(target_of(NODE, None, empty("parked"), None, reason="r").target) == {0: "parked", 1: "parked"}


@pytest.mark.parametrize(
    ("order", "gpus", "told_why"),
    [
        (fill(["base"]), [1], "gpu1 is parked: it has no instances"),
        (fill(["base", "base", "base"]), [0], "expected one, or one for each of 4g\\+3g"),
        (empty("parked"), [4], "GPU 4 of n1: expected one of 0, 1"),
    ],
)
def test_an_order_that_cannot_be_carried_out_says_why(order: Order, gpus: list[int], told_why: str) -> None:
    with pytest.raises(ConfigurationError, match=told_why):
        target_of(NODE, None, order, gpus, reason="r")
