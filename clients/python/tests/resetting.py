"""A server of bare HTTP/2 frames, which resets a watch as the service does with a slow reader: gRPC's own cannot."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from entity_service_client import v1

_DATA, _HEADERS, _RST_STREAM, _SETTINGS = 0x0, 0x1, 0x3, 0x4
_ACK, _END_HEADERS = 0x1, 0x4
_ENHANCE_YOUR_CALM = 11
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# ":status: 200" and "content-type: application/grpc", in HPACK.
_OK = b"\x88\x0f\x10\x10application/grpc"


@contextlib.contextmanager
def resetting_service() -> Iterator[tuple[str, list[v1.WatchEntitiesRequest]]]:
    """Its address, and the requests that came: the first is reset, the others are answered a message at "a"."""
    requests: list[v1.WatchEntitiesRequest] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        threading.Thread(target=_serve, args=[listener, requests], daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", requests


def _serve(listener: socket.socket, requests: list[v1.WatchEntitiesRequest]) -> None:
    connection, _ = listener.accept()
    # The client may go away at any moment.
    with connection, connection.makefile("rb") as frames, contextlib.suppress(ConnectionError):
        connection.sendall(_frame(_SETTINGS))
        frames.read(len(_PREFACE))
        while head := frames.read(9):
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            payload = frames.read(int.from_bytes(head[:3], "big"))
            if kind == _SETTINGS and not flags & _ACK:
                connection.sendall(_frame(_SETTINGS, flags=_ACK))
            # The last frame of a request may be empty.
            elif kind == _DATA and payload:
                # Before the message come a flag of compression and its length.
                requests.append(v1.WatchEntitiesRequest.FromString(payload[5:]))
                connection.sendall(_reset(stream) if len(requests) == 1 else _answer(stream))


def _reset(stream: int) -> bytes:
    return _frame(_RST_STREAM, stream, _ENHANCE_YOUR_CALM.to_bytes(4, "big"))


def _answer(stream: int) -> bytes:
    message = v1.WatchEntitiesResponse(position="a").SerializeToString()
    data = b"\0" + len(message).to_bytes(4, "big") + message
    return _frame(_HEADERS, stream, _OK, flags=_END_HEADERS) + _frame(_DATA, stream, data)


def _frame(kind: int, stream: int = 0, payload: bytes = b"", *, flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
