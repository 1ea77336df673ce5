"""Where the targets of this benchmark are."""

PORT = 8000
A_NET = 250  # targets in each 127.1.x.0/24


def address(number: int) -> str:
    return f"127.1.{number // A_NET}.{number % A_NET + 1}"
