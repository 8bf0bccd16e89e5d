"""Run a Python script in a terminal, and draw as SVG what the terminal showed at some moment.

    python benchmarks/speed/terminal.py examples/watch_grid_search.py docs/progress.svg

Needs rich (``pip install skdpq[progress]``) and a system with pseudo-terminals. Of what terminals understand, this
knows what rich's live displays write: colours, and going up to erase lines.
"""

import fcntl
import io
import os
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from _common import machine, make_parser
from rich.console import Console
from rich.text import Text

ROWS, COLUMNS = 50, 120
ERASE, UP = "\x1b[2K", "\x1b[1A"


def record(script):
    """Return what the script wrote, and after how many seconds each part of it was there: [(seconds, length)]."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        environment.pop(name, None)
    written, arrived, start = b"", [], time.perf_counter()
    process = subprocess.Popen([sys.executable, script], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux tells that nobody writes any more
            part = b""
        if not part:
            break
        written += part
        arrived.append((time.perf_counter() - start, len(written)))
    if process.wait():
        sys.exit(written.decode())
    return written, arrived


def screen(written):
    """Return the lines on the screen, colours as they were written, after some output."""
    lines = [""]
    for token in re.split(r"(\n|\x1b\[2K|\x1b\[1A)", re.sub(r"\r|\x1b\[\?25[lh]", "", written)):
        if token == "\n":
            lines.append("")
        elif token == UP:
            lines.pop()
        elif token == ERASE:
            lines[-1] = ""
        else:
            lines[-1] += token
    return "\n".join(lines)


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("script")
    parser.add_argument("svg")
    parser.add_argument("--at", type=float, default=0.8, help="the moment, as a share of the script's time")
    args = parser.parse_args()

    written, arrived = record(args.script)
    moment, length = max((part for part in arrived if part[0] <= args.at * arrived[-1][0]), default=arrived[0])
    shown = written[:length].decode(errors="ignore")
    shown = shown.rpartition("\r" + ERASE)[0] or shown  # what comes after may be a part of the next picture
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(screen(shown)), no_wrap=True)
    svg = console.export_svg(title=f"python {args.script}, after {moment:.0f} of {arrived[-1][0]:.0f} seconds")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # fonts from elsewhere; any monospaced one will do
    with open(args.svg, "w") as file:
        file.write(re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE))
    print(screen(written.decode()))
    print(machine("rich"))
