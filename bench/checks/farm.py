"""Ten thousand real listeners in a process of their own; `N` on its standard input makes N of them die, evenly spread:
whoever asks its targets in their order would otherwise meet all the dead at one moment of its round."""

import resource
import socket
import sys
import time

from bench.checks.targets import PORT, address


def serve(count: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    listeners = []
    for number in range(count):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address(number), PORT))
        sock.listen(64)
        listeners.append(sock)
    print("ready", flush=True)
    for line in sys.stdin:
        step = len(listeners) // int(line)
        for sock in listeners[step - 1 :: step]:
            sock.close()
        print(time.monotonic(), flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
