"""``python -m kaito_operator workspace | gpu-provisioner [--kubeconfig FILE]``"""

import argparse
import asyncio
import logging
import signal
import socket
import sys
import time

from pydantic import ValidationError

from kaito_operator import logs
from kaito_operator.endpoints import endpoints
from kaito_operator.handlers import watch
from kaito_operator.kube.client import Kube
from kaito_operator.kube.errors import KubeError
from kaito_operator.leader import Leader
from kaito_operator.metrics import Metrics
from kaito_operator.reconciler import Controller, Reconciler
from kaito_operator.settings import ControllerSettings, ProvisionerSettings, WorkspaceSettings

log = logging.getLogger("kaito_operator")


def _workspace() -> tuple[ControllerSettings, Controller]:  # type: ignore[type-arg]  # each controller sees its own type
    from kaito_operator.workspace.controller import workspace_controller
    from presets.catalog import load_catalog

    settings = WorkspaceSettings()
    return settings, workspace_controller(settings, load_catalog())


def _provisioner() -> tuple[ControllerSettings, Controller]:  # type: ignore[type-arg]
    from kaito_operator.gpu_provisioner.controller import provisioner_controller

    settings = ProvisionerSettings()
    return settings, provisioner_controller(settings)


CONTROLLERS = {"workspace": _workspace, "gpu-provisioner": _provisioner}


async def run(name: str, kubeconfig: str | None) -> None:
    """Works until a signal asks to stop, or until a part of the loop fails."""
    settings, controller = CONTROLLERS[name]()
    logs.set_up(form=settings.log_format, level=settings.log_level)
    metrics = Metrics(controller.name)
    kube = await Kube.connect(kubeconfig, field_manager=controller.field_manager, counted=metrics.requested)
    reconciler = Reconciler(
        controller, kube, metrics=metrics, workers=settings.workers, resync_seconds=settings.resync_seconds
    )
    leader = Leader(
        kube,
        name=controller.name,
        namespace=settings.namespace,
        identity=settings.identity or socket.gethostname(),
        seconds=settings.lease_seconds,
    )
    try:
        async with (
            endpoints(
                metrics,
                healthy=lambda: _stalled(reconciler.listed_at, settings.resync_seconds),
                ready=lambda: None,
                metrics_port=settings.metrics_port,
                health_port=settings.health_port,
            ),
            leader.term(),
        ):
            metrics.leading(True)
            async with asyncio.TaskGroup() as group:
                working = group.create_task(reconciler.run())
                await watch(controller.watches, kube, reconciler.saw)
                working.cancel()
            log.info("stopped")
    finally:
        await kube.close()


def _stalled(listed_at: float | None, resync_seconds: float) -> str | None:
    """A loop that has not managed a full LIST for three periods is no loop."""
    if listed_at is not None and time.monotonic() - listed_at > 3 * resync_seconds:
        return f"no resync for {time.monotonic() - listed_at:.0f} s"
    return None


async def _until_asked_to_stop(name: str, kubeconfig: str | None) -> int:
    running = asyncio.create_task(run(name, kubeconfig))
    loop = asyncio.get_running_loop()
    for asked in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(asked, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        log.info("stopped before it began")
    except (KubeError, ConnectionError) as ended:
        log.error("ending: %s", ended)
        return 1
    except BaseExceptionGroup as ended:
        for error in ended.exceptions:
            log.error("ending: %s", error, exc_info=error)
        return 1
    return 0


def main() -> int:
    """0 after a signal, 1 when the process cannot go on, 2 for wrong settings."""
    parser = argparse.ArgumentParser(prog="kaito_operator", description=__doc__)
    parser.add_argument("controller", choices=sorted(CONTROLLERS))
    parser.add_argument("--kubeconfig", help="instead of the pod's service account")
    asked = parser.parse_args()
    try:
        return asyncio.run(_until_asked_to_stop(asked.controller, asked.kubeconfig))
    except ValidationError as wrong:
        for problem in wrong.errors():
            sys.stderr.write(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
