"""``python -m local_cluster serve NAME`` and ``azure [--port N]``; what people type is ``kaito local``."""

import argparse
import os
import sys

from local_cluster.errors import LocalClusterError
from local_cluster.state import ContainerRuntime


def main() -> int:
    """0 when done; 1 with one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m local_cluster")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve a cluster from the background")
    inside = commands.add_parser("inside", help="what serve starts as the first process of the namespace")
    for command in (serve, inside):
        command.add_argument("name")
        command.add_argument("--bare", action="store_true", help="without the operators")
        command.add_argument("--runtime", type=ContainerRuntime, default=ContainerRuntime.PROCESSES)
    inside.add_argument("api_port", type=int)
    inside.add_argument("--user-namespace", action="store_true")
    azure = commands.add_parser("azure", help="serve Azure's stand-in alone, with machines that are only written down")
    azure.add_argument("--port", type=int, default=8090, help="on 127.0.0.1; default %(default)s")
    azure.add_argument("--boot-seconds", type=float, default=5.0, help="how long a pool is Creating")
    arguments = parser.parse_args()
    try:
        if arguments.command == "azure":
            from local_cluster.azure import serve_alone

            return serve_alone(arguments.port, boot_seconds=arguments.boot_seconds)
        if arguments.command == "serve":
            from local_cluster import serve as outside

            return outside.main(arguments.name, bare=arguments.bare, runtime=arguments.runtime)
        reap_orphans()
        from local_cluster import supervisor

        return supervisor.main(
            arguments.name,
            api_port=arguments.api_port,
            bare=arguments.bare,
            runtime=arguments.runtime,
            user_namespace=arguments.user_namespace,
        )
    except LocalClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def reap_orphans() -> None:
    """Splits the first process in two: the parent only buries the dead, the duty of process 1; the child goes on.

    Called before anything big is imported, so that the parent stays small.
    """
    child = os.fork()
    if child == 0:
        return
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    sys.exit(main())
