"""The line that a server's agent says, as HAProxy's agent-check reads it (configuration manual, agent-check). Pure."""

from kernlb.checks.verdict import Administration, Orders

STATES = {"up": True, "down": False, "fail": False, "failed": False, "stopped": False}
ADMINISTRATION = {str(each): each for each in Administration}


def parsed(line: str) -> tuple[Orders, str]:
    """Orders, and the reason given after `#`. Words are separated by blanks, tabs and commas and come in any order and
    case; those without meaning are passed over, as by HAProxy."""
    words, _, reason = line.partition("#")
    share: float | None = None
    limit: int | None = None
    administration: Administration | None = None
    up: bool | None = None
    for word in words.replace(",", " ").lower().split():
        if word in STATES:
            up = STATES[word]
        elif word in ADMINISTRATION:
            administration = ADMINISTRATION[word]
        elif word.endswith("%") and _is_number(word[:-1]):
            share = min(int(word[:-1]), 25600) / 100
        elif word.startswith("maxconn:") and _is_number(word[8:]):
            limit = int(word[8:])
    return Orders(share=share, administration=administration, up=up, max_connections=limit), reason.strip()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9
