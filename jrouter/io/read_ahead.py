"""The next items are made in a background thread while the current one is used."""

from collections.abc import Generator, Iterable
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TypeVar

Item = TypeVar("Item")
READ_AHEAD = 2
"""Items that wait in the queue, at most."""


def read_ahead(items: Iterable[Item], *, size: int = READ_AHEAD) -> Generator[Item, None, None]:
    """Yields `items` in their order, made in a thread that is at most `size` + 1 items ahead.

    What making an item raises is raised where that item would have come. The thread ends with the last item,
    and when the consumer stops early (closes this generator, or forgets it).

    Args:
      items: made one by one, each while the consumer works on those before.
      size: how many may wait.

    >>> list(read_ahead(range(4)))
    [0, 1, 2, 3]
    """
    queue: Queue[tuple[str, object]] = Queue(size)
    stop = Event()

    def put(kind: str, value: object = None) -> None:
        while not stop.is_set():
            try:
                return queue.put((kind, value), timeout=0.1)
            except Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put("item", item)
                del item  # or it would be held while the next one is made
                if stop.is_set():
                    return
            put("end")
        except BaseException as problem:  # handed to the consumer, whatever it is
            put("error", problem)
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = Thread(target=work, name="jrouter read ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = queue.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            yield value  # pyright: ignore[reportReturnType]
            del value
    finally:
        stop.set()
        try:
            while True:
                queue.get_nowait()  # a thread that waits for room goes on, and ends
        except Empty:
            thread.join()
