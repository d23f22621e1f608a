"""What both gRPC doors tell gRPC: their service's name, and the options of their two sides."""

from __future__ import annotations

from .connections import IDLE_S, MAX_CONNECTIONS

SERVICE = "inference.GRPCInferenceService"

Options = tuple[tuple[str, int], ...]


def server_options(message_bytes: int) -> Options:
    """For the side of the clients.

    Args:
        message_bytes: size of the largest request and answer.
    """
    return (
        *_limits(message_bytes),
        # Two doors on one port would share the clients between them without a word.
        ("grpc.so_reuseport", 0),
        # No compression: a small message must not unfold into a large one.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
        ("grpc.max_connection_idle_ms", round(IDLE_S * 1000)),
        # A client whose machine is gone is noticed, and gives back what it holds.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    )


def upstream_options(message_bytes: int) -> Options:
    """For the side of Triton; ``message_bytes`` as above."""
    return (
        *_limits(message_bytes),
        # A restarted Triton is found at once, and a proxy from the environment is none for loopback.
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.enable_http_proxy", 0),
    )


def _limits(message_bytes: int) -> Options:
    return (
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
    )
