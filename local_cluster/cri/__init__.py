"""The Container Runtime Interface, v1: ``api.proto`` is k8s.io/cri-api v0.37.2, ``api_pb2.py`` is made from it.

Made anew by ``python -m grpc_tools.protoc --proto_path=. --python_out=. local_cluster/cri/api.proto`` in the
repository's root; a test compares.
"""
