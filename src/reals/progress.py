"""Progress of long work: one live line on a terminal, plain lines elsewhere."""

import sys
import time

LINE_SECONDS = 10.0  # between plain lines in a log file
LIVE_SECONDS = 0.2


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """Counts towards ``total`` from ``start`` (work done in an earlier process) and estimates the time left."""

    def __init__(self, label: str, total: int, start: int = 0, stream=None):
        self.label, self.total, self.start = label, total, start
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.began = time.monotonic()
        self.shown = self.began if start else float("-inf")
        if start:
            print(f"{label}: resumed at {start} of {total}", file=self.stream, flush=True)

    def update(self, done: int, **values: float) -> None:
        now = time.monotonic()
        last = done >= self.total
        if not last and now - self.shown < (LIVE_SECONDS if self.live else LINE_SECONDS):
            return
        self.shown = now
        rate = (done - self.start) / max(now - self.began, 1e-9)
        text = f"{self.label}: {done}/{self.total}"
        text += "".join(f"  {name} {value:.4g}" for name, value in values.items())
        if rate > 0:
            text += f"  {rate:.3g}/s  " + (
                "done in " + _clock(now - self.began) if last else "ETA " + _clock((self.total - done) / rate)
            )
        if self.live:
            print(f"\r\033[K{text}", end="\n" if last else "", file=self.stream, flush=True)
        else:
            print(text, file=self.stream, flush=True)
