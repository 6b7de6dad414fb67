"""Where the scratch memory of a thread lies; its sizes are known when the module is complete."""

from __future__ import annotations

from niello.backends.cpu.llvm_text import Function, Value


class ThreadScratch:
    """Addresses inside the scratch of the thread that runs a function."""

    def __init__(self, f: Function) -> None:
        self.f = f
        self._own: Value | None = None

    def size(self, name: str) -> Value:
        """A size of the scratch layout."""
        return self.f.load("i64", Value(f"@{name}", "ptr"), align=8)

    def rows(self) -> Value:
        """Where this thread's own scratch begins, as an integer."""
        if self._own is None:
            f = self.f
            base = f.emit("i64", f"ptrtoint {f.argument('scratch')} to i64")
            base = f.add(base, self.size("niello_shared_bytes"))
            mine = f.mul(f.argument("thread"), self.size("niello_thread_bytes"))
            self._own = f.add(base, mine)
        return self._own

    def exchange(self) -> Value:
        """Where this thread's part of the exchange begins, as an integer."""
        return self.f.add(self.rows(), self.size("niello_rows_bytes"))
