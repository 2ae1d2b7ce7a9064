"""Messages from tasks and actors to the command: a queue on the command's own node."""

from __future__ import annotations

import ray
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def open_messages() -> Queue:
    """A queue on this node: the loss of another node must not take it away."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
