"""The same store through a real two-node Ray cluster on this machine, and what survives deaths."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmfm.data.bad import BadSamples, SampleError
from mmfm.data.dataset import ShardDataset
from mmfm.data.store import EmbeddingStore
from mmfm.errors import InputError
from mmfm.jobs.embed import embed_shards, image_keys
from mmfm.jobs.ray import ray_embed_shards

ROOT = Path(__file__).parents[2]
ALL = ("pooled", "grid", "text")
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # so that every node is 127.0.0.1
    "PYTHONPATH": str(ROOT),  # of the workers
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each, on loopback, without dashboard and reports to anybody."""
    short = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # why: names of sockets are at most 107 long
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUIET, "RAY_TMPDIR": short}.items():
            patch.setenv(name, value)
        pytest.importorskip("ray")
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=NODE)
        cluster.add_node(**NODE)
        yield cluster
        cluster.shutdown()
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture(scope="module")
def connected(cluster):
    """This process is a driver of the cluster, so that workers are kept from run to run."""
    import ray

    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()


def expect_same(one, two, folder, kinds=ALL):
    one, two = EmbeddingStore(one), EmbeddingStore(two)
    assert one.identity == two.identity
    dataset = ShardDataset.open(folder)
    keys = image_keys(dataset, one)
    assert np.array_equal(keys, image_keys(dataset, two))
    # another number of threads or batch mates: rounding, before half precision
    assert np.abs(one.pooled(keys) - two.pooled(keys)).max() < 5e-4
    if "grid" in kinds:
        assert np.abs(one.grids(keys).astype(float) - two.grids(keys)).max() < 5e-3
    if "text" in kinds:
        texts = [text for row in range(len(dataset)) for text in dataset.read(row).captions]
        assert np.abs(one.texts(texts) - two.texts(texts)).max() < 5e-4


def whole_files(store):
    """Finished files of a store; one that is written again is another file."""
    return {
        path: path.stat().st_ino for path in store.rglob("*.safetensors") if path.name[0] != "."
    }


def test_an_address_without_a_cluster_is_told(tiny_bundle, make_shards, tmp_path, unused_port):
    """Before Ray is initialised in this process: a driver that is connected asks nobody."""
    pytest.importorskip("ray")
    where = f"127.0.0.1:{unused_port}"
    with pytest.raises(InputError, match=f"there is no Ray cluster at '{where}'"):
        ray_embed_shards(tiny_bundle, make_shards(), tmp_path / "store", address=where)


@pytest.fixture
def unused_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_two_nodes_fill_the_store_as_one_process_does(
    connected, tiny_bundle, tiny_model, make_shards, tmp_path
):
    folder = make_shards(each=3)
    options = {"kinds": ALL}
    report = ray_embed_shards(tiny_bundle, folder, tmp_path / "ray", **options)
    local = embed_shards(tiny_model, folder, tmp_path / "local", kinds=ALL)
    assert report.samples == local.samples == 24
    assert report.embedded["pooled"] == report.embedded["grid"] == 24
    # two workers may meet the same caption at the same time
    assert report.embedded["text"] >= local.embedded["text"]
    expect_same(tmp_path / "ray", tmp_path / "local", folder)

    left = whole_files(tmp_path / "ray")
    assert not +ray_embed_shards(tiny_bundle, folder, tmp_path / "ray", **options).embedded
    # what one engine left, the other does not do again
    assert not +embed_shards(tiny_model, folder, tmp_path / "ray", kinds=ALL).embedded
    assert whole_files(tmp_path / "ray") == left


def test_bad_samples_come_home_as_they_are(
    connected, tiny_bundle, make_shards, make_sample, tmp_path
):
    samples = [make_sample(i) for i in range(12)]
    samples[7] = replace(samples[7], image=samples[7].image[:50])
    folder = make_shards(samples, each=3)
    with pytest.raises(SampleError, match="sample '0007'") as caught:
        ray_embed_shards(tiny_bundle, folder, tmp_path / "store")
    assert "\n" not in str(caught.value)
    assert caught.value.cause == "not-an-image"
    on_bad = BadSamples("skip", max_fraction=0.2)
    report = ray_embed_shards(tiny_bundle, folder, tmp_path / "store", on_bad=on_bad)
    assert report.as_dict()["bad"] == dict(on_bad.counts) == {"not-an-image": 1}
    assert EmbeddingStore(tmp_path / "store").size("pooled").rows == 11


@pytest.mark.slow
def test_a_node_that_dies_takes_no_work_with_it(
    connected, tiny_bundle, tiny_model, make_shards, make_sample, tmp_path
):
    cluster = connected
    folder = make_shards([make_sample(i) for i in range(600)], each=10)  # 60 shards
    node, left = next(iter(cluster.worker_nodes)), []

    def kill():
        while len(list((tmp_path / "ray").glob("shards/[!.]*"))) < 3:
            time.sleep(0.002)
        cluster.remove_node(node, allow_graceful=False)
        left.append(len(list((tmp_path / "ray").glob("shards/[!.]*"))))

    killer = threading.Thread(target=kill)
    killer.start()
    report = ray_embed_shards(tiny_bundle, folder, tmp_path / "ray", batch_size=1)
    killer.join()
    cluster.add_node(**NODE)
    assert left[0] < 60  # it died in the middle
    assert report.shards == 60
    assert report.samples == 600
    embed_shards(tiny_model, folder, tmp_path / "local")
    expect_same(tmp_path / "ray", tmp_path / "local", folder, kinds=("pooled",))


@pytest.mark.slow
def test_a_driver_killed_and_started_again_redoes_only_what_was_lost(
    cluster, tiny_bundle, tiny_model, make_shards, make_sample, tmp_path
):
    folder = make_shards([make_sample(i) for i in range(600)], each=10)
    place = tmp_path / "ray"
    command = [
        sys.executable, "-m", "mmfm", "data", "embed", folder, "-o", place, "--model", tiny_bundle,
        "--ray-address", cluster.address, "--batch-size", "1", "--json",
    ]  # fmt: skip
    first = subprocess.Popen([str(part) for part in command], cwd=ROOT, env=os.environ)
    while len(list(place.glob("shards/[!.]*"))) < 5:
        assert first.poll() is None
        time.sleep(0.002)
    first.kill()
    first.wait()
    time.sleep(3)  # Ray ends the workers of the dead driver
    left = whole_files(place)
    done = len(list(place.glob("shards/[!.]*")))
    assert 5 <= done < 60
    again = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=os.environ,
        stdout=subprocess.PIPE,
        check=True,
    )
    report = json.loads(again.stdout)
    assert report["samples"] == 600
    assert report["embedded"]["pooled"] <= 600 - 10 * done
    now = whole_files(place)
    assert {path: now[path] for path in left} == left
    embed_shards(tiny_model, folder, tmp_path / "local")
    expect_same(place, tmp_path / "local", folder, kinds=("pooled",))


@pytest.mark.slow
def test_without_a_cluster_it_makes_one_and_takes_it_down(
    tiny_bundle, tiny_model, make_shards, tmp_path
):
    """In a process of its own: Ray is initialised once in a process."""
    folder = make_shards()
    done = subprocess.run(
        [sys.executable, "-m", "mmfm", "data", "embed", folder, "-o", tmp_path / "ray", "--model",
         tiny_bundle, "--ray", "--grids", "--texts", "--json"],
        cwd=ROOT, env={**os.environ, **QUIET}, capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["embedded"]["pooled"] == 24
    embed_shards(tiny_model, folder, tmp_path / "local", kinds=ALL)
    expect_same(tmp_path / "ray", tmp_path / "local", folder)


def test_without_ray_the_extra_is_named(tiny_bundle, make_shards, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'mmfm\[ray\]'"):
        ray_embed_shards(tiny_bundle, make_shards(), tmp_path / "store")
