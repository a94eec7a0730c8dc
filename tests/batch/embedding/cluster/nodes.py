"""A Ray cluster of two nodes on this machine, in a process of its own.

`python -m tests.batch.embedding.cluster.nodes` prints the cluster's address. Its head has no
core for a worker, its second node has two. A line on stdin ends the second node at once and adds a
third; the end of stdin ends the cluster.
"""

import sys

from ray.cluster_utils import Cluster

BYTES = 150_000_000  # of the object store of a node


def main():
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "num_gpus": 0,
            "object_store_memory": BYTES,
            "include_dashboard": False,
        },
    )
    second = cluster.add_node(num_cpus=2, num_gpus=0, object_store_memory=BYTES)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(second, allow_graceful=False)
        second = cluster.add_node(num_cpus=2, num_gpus=0, object_store_memory=BYTES)
        print("replaced", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
