"""What a person can do something about; every message is one line that says what."""


class LocalClusterError(Exception):
    """The local cluster cannot do what was asked. The command line prints the message and exits 1."""
