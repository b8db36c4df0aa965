"""Several processes that train one run, each with devices of its own, on one machine or many.

`jax.distributed` connects them, and every one takes every step. The first alone writes rows,
pictures and reports; checkpoints they write together, so that all need the run's folder. What one
process finds out by itself, a mistake or a signal, it has to tell the others before it acts on it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import io
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh

import devices

LATE = 90  # seconds; NFS holds on to what a folder did not have for up to 60
# In errors of what processes do together: of programs, and of Orbax while it waits for them all.
PEERS = "Gloo|NCCL|peer|UNAVAILABLE|ABORTED|DEADLINE"
BARRIER = r"waiting for \w+ barrier"
SERVICE = b"coordination_service"
FATAL = b"the JAX distributed service detected fatal errors"


class Shared(app.UsageError):
    """A mistake that every process has been told of."""


@contextlib.contextmanager
def joined(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: int
) -> Iterator[None]:
    """One of the processes of a run, until its end.

    Args:
      coordinator: HOST:PORT at which the first process is to listen; None, as for the others: as
        the cluster says that JAX finds (Slurm, Open MPI, Kubernetes, Cloud TPU).
      timeout: seconds that all may take to come, and after which one that is silent is gone.
    Raises:
      app.UsageError: there is no such cluster, or the numbers are none of processes.
    """
    # All processes agree on a step to end at (`Vote`), of Ctrl-C and --max_seconds, too.
    jax.config.update("jax_enable_preemption_service", False)
    number = f"{num_processes} " if num_processes else ""
    words = [
        f"not all {number}processes have come to {coordinator or 'the first'} within {timeout} "
        "seconds: is each --process_id started, and once, and can each reach it?"
    ]
    _say_in_one_line(words)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=timeout,
            shutdown_timeout_seconds=timeout,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise app.UsageError(
            f"the processes cannot be joined: {reason} Without a cluster that JAX knows, "
            "--coordinator, --num_processes and --process_id say who they are"
        ) from error
    words[0] = (
        f"process {jax.process_index()}: another process has ended, or has been silent for "
        f"{timeout} seconds. Start them all again: the run goes on from its last checkpoint"
    )
    try:
        yield
    except (Shared, SystemExit):
        raise
    except BaseException as error:  # the others would be waited for, and hear of it by the silence
        if _is_of_peers(error):
            _end(f"{words[0]} ({str(error).partition(chr(10))[0]})", 1)
        mistake = isinstance(error, app.UsageError)
        if not mistake and not isinstance(error, OSError):
            traceback.print_exc()
        _end(f"process {jax.process_index()}: {error}", 2 if mistake else 1)


def is_first() -> bool:
    """Whether this process writes what one alone is to write."""
    return jax.process_index() == 0


def own(folder: Path) -> Path:
    """Of this process, where there are several."""
    return folder / f"process_{jax.process_index()}" if jax.process_count() > 1 else folder


def tell(words: str) -> list[str]:
    """What each process says here, the first one's first; each waits for all."""
    if jax.process_count() == 1:
        return [words]
    content = words.encode()
    longest = int(np.max(multihost_utils.process_allgather(np.array(len(content)))))
    size = 1 << longest.bit_length()  # of few lengths, since each is a program
    said = multihost_utils.process_allgather(np.frombuffer(content.ljust(size, b"\0"), np.uint8))
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in np.asarray(said)]


def any_of(flag: bool) -> bool:
    """Whether it is true of any process; each waits here for all."""
    return str(True) in tell(str(flag))


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """All get to its end, or the mistake of one is that of all.

    Raises:
      app.UsageError: the first of the mistakes.
    """
    mistake = ""
    try:
        yield
    except app.UsageError as error:
        if jax.process_count() == 1:
            raise
        mistake = str(error)
    for i, said in enumerate(tell(mistake)):
        if said:
            raise Shared(f"process {i}: {said}")


def check_same(facts: dict[str, str]) -> None:
    """What all processes must have alike.

    Args:
      facts: short words, such as hashes, by what they are of.
    Raises:
      app.UsageError: which of them differ, and between which processes.
    """
    for name, mine in facts.items():
        said = tell(mine)
        others = [i for i, theirs in enumerate(said) if theirs != said[0]]
        if others:
            raise Shared(f"process {others[0]} has another {name} than process 0")


def wait_until(there: Callable[[], bool], folder: Path) -> None:
    """What the first process has done in a folder: on a network it may be seen a minute later.

    Raises:
      app.UsageError: it is not there.
    """
    end = time.monotonic() + LATE
    while not there():
        if time.monotonic() > end:
            raise app.UsageError(f"{folder} is not the folder of process 0: all need one")
        time.sleep(0.1)


class Vote:
    """Whether any process has said so at the call before: none waits for its last step to end.

    Args:
      mesh: the devices of all.
    """

    def __init__(self, mesh: Mesh):
        self._each, self._all = devices.along(mesh), devices.whole(mesh)
        self._any = jax.jit(jnp.any, out_shardings=self._all)
        self._before: jax.Array | None = None

    def __call__(self, mine: bool) -> bool:
        """Of one process alone: what it says now."""
        if jax.process_count() == 1:
            return mine
        votes = jax.make_array_from_callback(
            (self._each.mesh.size,), self._each, lambda index: np.array([mine])
        )
        before, self._before = self._before, self._any(votes)
        return before is not None and bool(before)


def _is_of_peers(error: BaseException) -> bool:
    """Whether it, or what it arose from, says that another process is gone."""
    pattern = PEERS if isinstance(error, jax.errors.JaxRuntimeError) else BARRIER
    arose_from = error.__cause__ or error.__context__
    return bool(re.search(pattern, str(error)) or (arose_from and _is_of_peers(arose_from)))


def _end(words: str, code: int) -> NoReturn:
    """At once, without waiting for the other processes, in one line."""
    line = " ".join(words.split())
    sys.stdout.flush()
    print(f"{os.path.basename(sys.argv[0])}: {line}", file=sys.stderr, flush=True)
    os._exit(code)


def _say_in_one_line(words: list[str]) -> None:
    """Has a process whose peers are gone end with `words` as they are then.

    JAX ends it from within C++, with a page that names no one. So what C++ writes goes through a
    pipe, and is passed on but for that page; the signal that it would end by is slept over.
    """
    to_user = os.dup(2)
    sys.stderr = io.TextIOWrapper(os.fdopen(to_user, "wb", 0), write_through=True)
    logging.get_absl_handler().python_handler.stream = sys.stderr
    source, sink = os.pipe()
    os.dup2(sink, 2)
    os.close(sink)

    def pass_on() -> None:
        while content := os.read(source, 2**16):
            if FATAL in content:
                _end(words[0], 1)
            if SERVICE not in content:  # what it says before it ends a process
                os.write(to_user, content)

    reader = threading.Thread(target=pass_on, daemon=True)
    reader.start()

    @atexit.register
    def end() -> None:
        os.dup2(to_user, 2)  # nobody writes into the pipe any more: its reader ends
        reader.join(1)

    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))  # for 6 seconds
