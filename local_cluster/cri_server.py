"""CRI over gRPC: finds the method for each call, and turns our errors into status codes, once."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import message_factory

from local_cluster.cri import api_pb2 as cri


class CriError(Exception):
    """A call that cannot be answered: ``code`` is what gRPC says."""

    code = grpc.StatusCode.UNKNOWN


class NotFound(CriError):
    """There is no such sandbox, container or image."""

    code = grpc.StatusCode.NOT_FOUND


class InvalidRequest(CriError):
    """The request makes no sense as it is."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotNow(CriError):
    """The state of the sandbox, the container or the node does not allow it."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class TooLate(CriError):
    """It took longer than it may."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class NotSupported(CriError):
    """This runtime cannot do it."""

    code = grpc.StatusCode.UNIMPLEMENTED


class StartError(CriError):
    """A container's program does not start."""


def handlers(service: str, implementation: object) -> grpc.GenericRpcHandler:
    """The methods of a CRI service, ``RunPodSandbox`` by ``implementation.run_pod_sandbox``.

    Each takes the request and returns the response. What ``implementation`` lacks is answered with UNIMPLEMENTED.
    """
    described = cri.DESCRIPTOR.services_by_name[service]
    found = {
        method.name: grpc.unary_unary_rpc_method_handler(
            _answer(function),
            request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
            response_serializer=message_factory.GetMessageClass(method.output_type).SerializeToString,
        )
        for method in described.methods
        if (function := getattr(implementation, snake_case(method.name), None))
    }
    return grpc.method_handlers_generic_handler(described.full_name, found)


def snake_case(name: str) -> str:
    """``RunPodSandbox`` → ``run_pod_sandbox``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _answer(function: Callable[[Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def answer(request: Any, context: Any) -> Any:
        try:
            return await function(request)
        except CriError as error:
            return await context.abort(error.code, str(error))

    return answer
