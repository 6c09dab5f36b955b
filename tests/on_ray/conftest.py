"""Two nodes of Ray on this machine, and a saved model; nothing leaves the machine.

The folder is not called `ray`: `tests` is on the path, and Python would take it for the package.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

# A busy machine may take minutes for what Ray expects in seconds.
_PATIENCE = {
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_worker_niceness": "0",  # and not 15, with which it gets nothing beside others
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_gcs_server_request_timeout_seconds": "300",
    "RAY_GCS_SERVER_REQUEST_TIMEOUT_SECONDS": "300",
    "RAY_health_check_initial_delay_ms": "60000",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_failure_threshold": "20",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "300",
}


def _patient(get_node):
    """Return what waits for a node that starts for as long as it takes; Ray's own loop ends after 30 seconds."""

    def get(*arguments):
        end = time.monotonic() + 300
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    return get


def _agent_ports() -> dict[str, int]:
    """Return free ports for the agents of a node, which it otherwise reads from files that they must write in time."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: each.getsockname()[1] for name, each in zip(names, sockets, strict=True)}
    for each in sockets:
        each.close()
    return ports


def _with_port_file(start_raylet):
    """Return what starts a raylet that finds the file of the one port for which it waits 15 seconds and no more."""

    def start(node, *arguments, **more):
        from ray._raylet import DASHBOARD_AGENT_LISTEN_PORT_NAME, get_port_filename

        name = get_port_filename(node._node_id, DASHBOARD_AGENT_LISTEN_PORT_NAME)
        Path(node._session_dir, name).write_text(str(node._ray_params.dashboard_agent_listen_port))
        return start_raylet(node, *arguments, **more)

    return start


@pytest.fixture(scope="session")
def cluster():
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'fastbert-kernels[ray]'")
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1", "RAY_DEDUP_LOGS": "1"}
    os.environ.update(_PATIENCE | quiet | {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"})
    import ray
    from ray._private import services
    from ray._private.node import Node
    from ray.cluster_utils import Cluster

    services.get_node = _patient(services.get_node)
    Node.start_raylet = _with_port_file(Node.start_raylet)
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node | _agent_ports() | {"include_dashboard": False})
    try:
        cluster.add_node(**node, **_agent_ports())
        ray.init(address=cluster.address, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'fastbert-kernels[ray]'")
    from helpers.models import spread_model
    from helpers.serving import tiny_tokenizer

    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    model = spread_model()
    model.config.id2label = {0: "no", 1: "yes", 2: "perhaps"}
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
