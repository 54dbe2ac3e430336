"""By which network interface a connection goes."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct

_SIOCGIFADDR = 0x8915  # <linux/sockios.h>; netdevice(7): struct ifreq


def local_address(connection: socket.socket) -> str:
    """This side's address, IPv4 where it is one."""
    return str(connection.getsockname()[0]).removeprefix("::ffff:")


def is_inner(address: str) -> bool:
    """Whether it is that of a connection which stays on this machine."""
    return address.startswith(("127.", "::1"))


def interface_of(address: str) -> str | None:
    """The interface that has the IPv4 `address`; None where none has, as for IPv6."""
    if address.startswith("127."):
        return "lo"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no IPv4 address
                request = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, request)
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None
