"""Threads that start together."""

import threading


def at_once(task, count=8):
    """Call task(0), task(1), ... in as many threads, released together; return what each returned or raised."""
    barrier, results = threading.Barrier(count), [None] * count

    def one(index):
        barrier.wait()
        try:
            results[index] = task(index)
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
