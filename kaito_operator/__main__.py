"""``python -m kaito_operator workspace | gpu-provisioner [--kubeconfig FILE]``"""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

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
    from presets.prices.price import DEFAULT_REGION, known

    settings = WorkspaceSettings()
    prices = known(settings.cloud, settings.price_region or DEFAULT_REGION[settings.cloud])
    return settings, workspace_controller(settings, replace(load_catalog(), prices=prices))


def _provisioner() -> tuple[ControllerSettings, Controller]:  # type: ignore[type-arg]
    from kaito_operator.gpu_provisioner.controller import provisioner_controller

    settings = ProvisionerSettings()
    return settings, provisioner_controller(settings)


CONTROLLERS = {"workspace": _workspace, "gpu-provisioner": _provisioner}


async def run(name: str, kubeconfig: str | None, *, take_signals: Callable[[], None]) -> None:
    """Observes, and works while it leads, until cancelled or until a part of it fails."""
    settings, controller = CONTROLLERS[name]()
    logs.set_up(form=settings.log_format, level=settings.log_level)
    metrics = Metrics(controller.name, registry=controller.registry)

    def counted(method: str, resource: str, code: int) -> None:
        metrics.requested(method, resource, code)
        controller.requested(method, resource, code)

    connect = partial(Kube.connect, kubeconfig, field_manager=controller.field_manager, counted=counted)
    async with AsyncExitStack() as held:
        # A connection of its own: renewals wait for nobody, and only they may write without the Lease.
        for_lease = await connect()
        held.push_async_callback(for_lease.close)
        leader = Leader(
            for_lease,
            name=controller.name,
            namespace=settings.namespace,
            host=settings.pod or socket.gethostname(),
            only_here=bool(settings.pod),
            seconds=settings.lease_seconds,
        )
        kube = await connect(may_write=lambda: leader.leads)
        held.push_async_callback(kube.close)
        reconciler = Reconciler(
            controller, kube, metrics=metrics, workers=settings.workers, resync_seconds=settings.resync_seconds
        )
        probes = endpoints(
            metrics,
            healthy=lambda: _stalled(reconciler.listed_at, settings.resync_seconds),
            ready=lambda: "not listed yet" if reconciler.listed_at is None else controller.unready(),
            metrics_port=settings.metrics_port,
            health_port=settings.health_port,
        )
        await held.enter_async_context(probes)
        group = await held.enter_async_context(asyncio.TaskGroup())
        group.create_task(watch(controller, kube, reconciler.saw, spawned=take_signals))
        group.create_task(reconciler.observe())
        for each in controller.from_the_start:
            group.create_task(each())
        async with leader.term():
            metrics.leading(True)
            await reconciler.work()


def _stalled(listed_at: float | None, resync_seconds: float) -> str | None:
    """A loop that has not managed a full LIST for three periods is no loop."""
    if listed_at is not None and time.monotonic() - listed_at > 3 * resync_seconds:
        return f"no resync for {time.monotonic() - listed_at:.0f} s"
    return None


async def _until_asked_to_stop(name: str, kubeconfig: str | None) -> int:
    loop = asyncio.get_running_loop()

    def take_signals() -> None:
        for asked in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(asked, running.cancel)

    running = asyncio.create_task(run(name, kubeconfig, take_signals=take_signals))
    take_signals()
    try:
        await running
    except asyncio.CancelledError:
        log.info("stopped")
        return 0
    except KubeError as ended:
        log.error("ending: %s", ended)
    except OSError as ended:  # a port that is taken
        log.error("ending: %s", ended)
    except BaseExceptionGroup as ended:
        for error in ended.exceptions:
            log.error("ending: %s", error, exc_info=error)
    return 1


def main() -> int:
    """0 after a signal, 1 when the process cannot go on, 2 for wrong settings."""
    parser = argparse.ArgumentParser(prog="kaito_operator", description=__doc__)
    parser.add_argument("controller", choices=sorted(CONTROLLERS))
    parser.add_argument("--kubeconfig", help="instead of the pod's service account")
    asked = parser.parse_args()
    try:
        # Never closed, unlike asyncio.run: that waits for every task, and a watch of kopf 1.45 that asks for a new
        # login when the others have failed takes no cancellation. What is ours has ended when this returns.
        return asyncio.Runner().run(_until_asked_to_stop(asked.controller, asked.kubeconfig))
    except ValidationError as wrong:
        for problem in wrong.errors():
            sys.stderr.write(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}\n")
        return 2


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)
