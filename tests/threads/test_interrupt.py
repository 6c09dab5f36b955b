"""A signal in the middle of a native call: Python's handler runs, and what it raises ends the call."""

from __future__ import annotations

from helpers import programs

# In a process of its own, which is what a signal is sent to. The call would take many seconds.
PROGRAM = """
import os, resource, signal, threading, time
import torch, fastbert_kernels
from fastbert_hf import FastBertConfig, FastBertForSequenceClassification
from transformers import BertConfig

torch.set_num_threads(THREADS)
signal.signal(signal.SIGINT, signal.default_int_handler)
size = dict(vocab_size=100, hidden_size=256, num_hidden_layers=8, num_attention_heads=4, intermediate_size=1024)
model = FastBertForSequenceClassification(FastBertConfig(backbone_config=BertConfig(**size), num_labels=3)).eval()
fastbert_kernels.patch(model)
short, long = torch.randint(1, 100, (2, 9)), torch.randint(1, 100, (128, 512))

class Bell(Exception):
    pass

def ring(*_):
    raise Bell

def call(ids):
    with torch.inference_mode():
        return model(ids).logits

def interrupted(number, error):
    begun = threading.Event()
    def send():
        begun.wait()
        time.sleep(0.3)
        os.kill(os.getpid(), number)
    sender = threading.Thread(target=send)
    sender.start()
    begun.set()
    try:
        call(long)
    except error:
        return
    finally:
        sender.join()
    raise AssertionError(f"{error.__name__} did not end the call")

want = call(short)
BODY
"""


def run(body, threads):
    programs.succeed(PROGRAM.replace("THREADS", str(threads)).replace("BODY", body))


def test_ctrl_c_ends_a_call_and_leaves_the_engine_usable():
    """And the memory of the calls that ended is free: five more take no more than one."""
    run(
        """
interrupted(signal.SIGINT, KeyboardInterrupt)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(5):
    interrupted(signal.SIGINT, KeyboardInterrupt)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
assert grown < 1.5 * long.numel() * 256 * 4, grown  # the hidden states of one call
assert torch.equal(call(short), want)
""",
        2,
    )


def test_any_handler_that_raises_ends_a_call_with_one_thread():
    run(
        """
signal.signal(signal.SIGALRM, ring)
interrupted(signal.SIGALRM, Bell)
assert torch.equal(call(short), want)
""",
        1,
    )


def test_a_handler_that_raises_nothing_only_runs():
    """It may even call the model itself. The answers are those of a call in peace."""
    run(
        """
long = long[:4]
peace, rung = call(long), []
def ring_three_times(*_):
    rung.append(call(short))
    if len(rung) < 3:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
signal.signal(signal.SIGALRM, ring_three_times)
signal.setitimer(signal.ITIMER_REAL, 0.02)
got = call(long)
signal.setitimer(signal.ITIMER_REAL, 0)
assert torch.equal(got, peace)
assert rung and all(torch.equal(logits, want) for logits in rung)
""",
        2,
    )


def test_other_threads_calls_go_on():
    """Python's handlers run on the main thread; a call on another one is not ended with it."""
    run(
        """
answers, stop = [], threading.Event()
def serve():
    while not stop.is_set():
        answers.append(call(short))
server = threading.Thread(target=serve)
server.start()
interrupted(signal.SIGINT, KeyboardInterrupt)
count = len(answers)
while len(answers) < count + 3 and server.is_alive():
    time.sleep(0.01)
stop.set()
server.join()
assert len(answers) >= count + 3 and all(torch.equal(logits, want) for logits in answers)
""",
        2,
    )
