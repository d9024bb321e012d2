"""Volumes that outlive pods: a StorageClass ``local`` and a few PersistentVolumes in the cluster's directory."""

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Any

from local_cluster.api import Api, Refused

log = logging.getLogger(__name__)

CLASS = "local"
VOLUMES = 4
SIZE = "100Gi"
"""What a volume says it has; nobody measures it."""
VOLUMES_PATH = "/api/v1/persistentvolumes"
BETWEEN_WATCHES = 1.0


def make_directories(directory: Path) -> None:
    """A directory per volume that pods of any user may write to, as the fsGroup of a real volume lets them."""
    for path in paths(directory):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)  # hostPath knows no fsGroup, and the directory above is its owner's alone


def paths(directory: Path) -> list[Path]:
    """Where the volumes are."""
    return [directory / f"volume-{number}" for number in range(1, VOLUMES + 1)]


def objects(directory: Path) -> list[dict[str, Any]]:
    """The StorageClass and its volumes; a claim of the class takes the next free one."""
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "Immediate",
    }
    return [storage_class, *(_volume(path) for path in paths(directory))]


async def offer_again(api: Api, directory: Path) -> None:
    """Empties each volume whose claim is gone and offers it to the next, as a provisioner would; until cancelled."""
    while True:
        try:
            async for volume in api.watch(VOLUMES_PATH):
                await _if_released(volume, api=api, directory=directory)
        except (Refused, OSError) as error:
            log.warning("volumes are not looked after for a moment: %s", error)
        await asyncio.sleep(BETWEEN_WATCHES)


async def _if_released(volume: dict[str, Any], *, api: Api, directory: Path) -> None:
    """Kubernetes releases a volume when no pod uses its claim any more."""
    name = volume["metadata"].get("name", "")
    path = directory / name.removeprefix(f"{CLASS}-")
    if volume.get("status", {}).get("phase") != "Released" or path not in paths(directory):
        return
    await asyncio.to_thread(_empty, path)
    await api.merge(f"{VOLUMES_PATH}/{name}", {"spec": {"claimRef": None}})


def _empty(path: Path) -> None:
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _volume(path: Path) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{CLASS}-{path.name}"},
        "spec": {
            "capacity": {"storage": SIZE},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CLASS,
            "hostPath": {"path": str(path), "type": "Directory"},
        },
    }
