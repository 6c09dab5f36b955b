"""A model that was patched in the parent answers in a forked child: servers that load first and fork then."""

from __future__ import annotations

import pytest

from helpers import programs

pytestmark = pytest.mark.proof

# Large enough for the engine and for PyTorch's own operations (more than 32,768 ids) to take all threads.
PROGRAM = """
import faulthandler, multiprocessing, os, pickle, signal, sys, threading, warnings
faulthandler.register(signal.SIGALRM, chain=True)  # says where a child waits, which then ends
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork of a process with threads, from Python 3.12 on
import torch, fastbert_kernels
from fastbert_kernels import threads
from helpers.models import padded_batch, spread_model

threads.processors = lambda: 2
torch.set_num_threads(THREADS)
torch.randn(1 << 20).sort()  # PyTorch's threads are there before the fork
model = spread_model(hidden_size=64, layers=2)
texts = padded_batch([64] * 516)

def answer(speed=0.5, model=model):
    with torch.inference_mode():
        out = model(**texts, speed=speed)
    return out.logits, out.exit_layer

def check(want):
    signal.alarm(SECONDS)
    assert fastbert_kernels.info()["threads"] == torch.get_num_threads() == THREADS
    assert all(map(torch.equal, answer(), want))
    assert torch.get_num_threads() == THREADS

def fork(run, *arguments):
    pid = os.fork()
    if pid == 0:
        try:
            run(*arguments)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return pid

def wait(pid):
    _, status = os.waitpid(pid, 0)
    assert status == 0, status

BODY
"""


def run(body, threads):
    programs.succeed(f"SECONDS, THREADS = 100, {threads}\n{PROGRAM.replace('BODY', body)}")


@pytest.mark.parametrize("threads", [1, 2])
def test_children_answer_like_their_parent(threads):
    """Forked before the parent's first call and behind it, one after another and a child of a child."""
    run(
        """
fastbert_kernels.patch(model)
read, write = os.pipe()
def first():
    signal.alarm(SECONDS)
    with os.fdopen(write, "wb") as file:
        pickle.dump([value.tolist() for value in answer()], file)
pid = fork(first)
os.close(write)
with os.fdopen(read, "rb") as file:
    got = [torch.tensor(value) for value in pickle.load(file)]
wait(pid)
want = answer()
assert all(map(torch.equal, got, want))
for pid in [fork(check, want) for _ in range(2)]:
    wait(pid)
def grandparent():
    check(want)
    wait(fork(check, want))
wait(fork(grandparent))
check(want)  # the parent goes on
""",
        threads,
    )


def test_a_child_of_multiprocessing():
    run(
        """
fastbert_kernels.patch(model)
want = answer()
children = [multiprocessing.get_context("fork").Process(target=check, args=(want,)) for _ in range(2)]
for child in children:
    child.start()
for child in children:
    child.join()
    assert child.exitcode == 0
""",
        2,
    )


def test_a_fork_while_other_threads_are_inside_calls():
    run(
        """
fastbert_kernels.patch(model)
want = answer()
stop = threading.Event()
def serve():
    while not stop.is_set():
        answer()
servers = [threading.Thread(target=serve, daemon=True) for _ in range(2)]
for server in servers:
    server.start()
pids = [fork(check, want) for _ in range(3)]
for pid in pids:
    wait(pid)
stop.set()
for server in servers:
    server.join()
""",
        2,
    )


def test_a_fork_while_somebody_patches():
    """The child patches a model of its own, though nobody gives back the parent's lock there."""
    run(
        """
from fastbert_kernels.hosts import derived
want = answer(model=fastbert_kernels.patch(model))
def child():
    signal.alarm(SECONDS)
    unpatched = spread_model(hidden_size=64, layers=2)
    torch.testing.assert_close(answer(model=fastbert_kernels.patch(unpatched))[0].shape, want[0].shape)
with derived._WATCHED._lock:
    pid = fork(child)
wait(pid)
""",
        2,
    )


def test_patched_in_the_child_and_called_by_several_threads():
    run(
        """
def child():
    fastbert_kernels.patch(model, dtype=torch.bfloat16)
    signal.alarm(SECONDS)
    want, got = answer(), []
    callers = [threading.Thread(target=lambda: got.append(answer())) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(got) == 3 and all(torch.equal(a, b) for pair in got for a, b in zip(pair, want))
    assert torch.get_num_threads() == THREADS
wait(fork(child))
""",
        2,
    )


def test_the_engine_takes_what_the_child_allows_torch():
    run(
        """
fastbert_kernels.patch(model)
want = answer()
def child():
    signal.alarm(SECONDS)
    torch.set_num_threads(1)
    assert threads.limits() == (1, 2)
    assert all(map(torch.equal, answer(), want))
    assert torch.get_num_threads() == 1
wait(fork(child))
""",
        2,
    )
