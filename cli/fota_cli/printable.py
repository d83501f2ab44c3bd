"""Text for a terminal: names and details are others' words, and must not steer it."""


def printable(text: str) -> str:
    r"""`text` with everything that a terminal would act on as `\xhh`."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
