"""The line that is shown of a failed job is the cause. The logs are those of real failures, cut to what matters."""

import pytest

from reals.machine.last_words import LONGEST, cause

COMPILER = """\
  File "torch/_inductor/cpp_builder.py", line 146, in cpp_compiler_search
    raise exc.InvalidCxxCompiler
torch._inductor.exc.InvalidCxxCompiler: No working C++ compiler found

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "torch/_inductor/cpp_builder.py", line 146, in cpp_compiler_search
    raise exc.InvalidCxxCompiler
torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')

Set TORCHDYNAMO_VERBOSE=1 for the internal stack trace (please do this especially if you're reporting a bug to PyTorch). For even \
more developer context, set TORCH_LOGS="+dynamo"

"""
CUDA = """\
Traceback (most recent call last):
  File "reals/training/loop.py", line 92, in train
    task.update(batch)
torch.AcceleratorError: CUDA error: device-side assert triggered
Search for `cudaErrorAssert' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information.
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.

"""
MEMORY = """\
Traceback (most recent call last):
  File "reals/method/models/transformer.py", line 88, in forward
    x = x + self.mlp(x)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1 GiB is free.
reals stage transformer: out of memory on the GPU (80 GB): batch 256; set engine.accumulate to 2 in the scale file
"""
NCCL = """\
[rank1]: Traceback (most recent call last):
[rank1]:   File "torch/distributed/distributed_c10d.py", line 2810, in all_reduce
[rank1]:     work = group.allreduce([tensor], opts)
[rank1]: torch.distributed.DistBackendError: NCCL error in: NCCLUtils.cpp:77, unhandled system error (run with NCCL_DEBUG=INFO for details)
[rank1]: ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.
[rank1]: Last error:
[rank1]: socketStartConnect: Connect to 10.0.0.2<40000> failed : Connection refused
E1130 05:34:32.782000 31243 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 1) local_rank: 1 (pid: 31250) of binary: python
"""
SUMMARY = """\
W1130 05:34:32.714000 31243 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 31249 closing signal SIGTERM
E1130 05:34:32.782000 31243 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: {code}) local_rank: 1 (pid: 31250) of binary: python
Traceback (most recent call last):
  File "torch/distributed/launcher/api.py", line 386, in launch_agent
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\x20
=======================================================
reals FAILED
-------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-30_05:34:32
  exitcode  : {code} (pid: 31250)
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
=======================================================
"""
GLOO = """\
[rank0]: Traceback (most recent call last):
[rank0]:   File "torch/distributed/distributed_c10d.py", line 3913, in all_reduce
[rank0]: RuntimeError: [gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:15271: Connection reset by peer.
"""
PEER = "reals stage transformer: sit: another process of this run is gone; the same command goes on from the last saved state (states/x)\n"
DURING = """\
Traceback (most recent call last):
  File "e.py", line 3, in a
    {}["k"]
    ~~^^^^^
KeyError: 'k'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "e.py", line 6, in <module>
    a()
AssertionError: shapes differ
expected [4, 4]
  got [4, 2]
"""
GROUP = """\
  + Exception Group Traceback (most recent call last):
  |   File "<string>", line 2, in <module>
  | ExceptionGroup: several (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | ValueError: one
    +---------------- 2 ----------------
    | Traceback (most recent call last):
    |   File "<string>", line 3, in <module>
    | OSError: [Errno 28] No space left on device
    +------------------------------------
"""
NEXT_LINE = """\
Traceback (most recent call last):
  File "x.py", line 1, in <module>
RuntimeError: Error(s) in loading state_dict for SiT:
	Missing key(s) in state_dict: "x_embedder.weight".
"""
ABORT = """\
terminate called after throwing an instance of 'c10::Error'
  what():  CUDA error: an illegal memory access was encountered
Exception raised from c10_cuda_check_implementation at CUDAException.cpp:44 (most recent call first):
frame #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x96 (0x7f)

"""
IGNORED = """\
Exception ignored in: <function Pool.__del__ at 0x7f>
Traceback (most recent call last):
  File "pool.py", line 271, in __del__
ResourceWarning: unclosed running multiprocessing pool
sample 12/48
"""
RAISED = """\
Traceback (most recent call last):
  File "x.py", line 1, in <module>
ValueError: batch is wrong
"""
FROM = """\
Traceback (most recent call last):
  File "x.py", line 1, in <module>
OSError: [Errno 5] Input/output error

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "x.py", line 2, in <module>
RuntimeError: the cache cannot be read
"""
CPP = """\
Traceback (most recent call last):
  File "x.py", line 1, in <module>
torch._inductor.exc.InductorError: CppCompileError: C++ compile error

Command:
g++ /tmp/x.cpp

Output:
/tmp/x.cpp:2:10: fatal error: Python.h: No such file or directory
    2 | #include <Python.h>
compilation terminated.

Set TORCHDYNAMO_VERBOSE=1 for the internal stack trace
"""
LEAKED = """\
/x/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 12 leaked semaphore objects
  warnings.warn('resource_tracker: There appear to be %d '
[rank0]:[W1130 21:00:00.123456789 ProcessGroupNCCL.cpp:1479] Warning: WARNING: destroy_process_group() was not called
"""
SRUN = """\
srun: error: node3: task 1: Exited with exit code 2
srun: Terminating StepId=7.0
slurmstepd: error: *** STEP 7.0 ON node3 CANCELLED AT 2026-11-30T10:00:00 ***
"""
MIXED = """\
[rank1]: Traceback (most recent call last):
[rank0]: Traceback (most recent call last):
[rank0]:   File "x", line 1
[rank0]: torch.distributed.DistBackendError: NCCL error: remote process exited
[rank1]:   File "x", line 1
[rank1]: ValueError: one
"""
SHELL = "/bin/bash: line 1: 4242 {what} (core dumped) python -m reals.machine.dispatch stage sample\n"
GROUPS = """  + Exception Group Traceback (most recent call last):
  |   File "a.py", line 3, in run
  | ExceptionGroup: unhandled errors in a TaskGroup (3 sub-exceptions)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "a.py", line 1, in f
    | KeyError: 'x'
    |
    | The above exception was the direct cause of the following exception:
    |
    | Traceback (most recent call last):
    |   File "a.py", line 2, in f
    | ValueError: one
    +---------------- 2 ----------------
    | Traceback (most recent call last):
    |   File "a.py", line 2, in g
    | OSError: two
    +---------------- 3 ----------------
    | Traceback (most recent call last):
    |   File "a.py", line 2, in g
    | OSError: two
    +------------------------------------
"""

CASES = {
    "no compiler": (COMPILER, "torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')"),
    "CUDA": (CUDA, "torch.AcceleratorError: CUDA error: device-side assert triggered"),
    "out of memory, said by us": (MEMORY, "reals stage transformer: out of memory on the GPU (80 GB): batch 256; set engine.accumulate to 2 in the scale file"),
    "out of memory": ("".join(MEMORY.splitlines(True)[:-1]), "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1 GiB is free."),
    "NCCL": (NCCL, "torch.distributed.DistBackendError: NCCL: socketStartConnect: Connect to 10.0.0.2<40000> failed : Connection refused"),
    "a process of several": (DURING + GLOO + PEER + SUMMARY.format(code=1), "AssertionError: shapes differ"),
    "a killed process of several": (GLOO + PEER + SUMMARY.format(code=-9), "a process was ended by SIGKILL (out of memory, or by hand)"),
    "a machine that is gone": (GLOO, "RuntimeError: [gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:15271: Connection reset by peer."),
    "a mistake before the others' errors": ("reals stage transformer: batch 1 on 2 processes\n" + GLOO + PEER, "reals stage transformer: batch 1 on 2 processes"),
    "during another": (DURING, "AssertionError: shapes differ"),
    "group": (GROUP, "ValueError: one; OSError: [Errno 28] No space left on device"),
    "group of several": (GROUPS, "ValueError: one (from KeyError: 'x'); OSError: two"),
    "raised after a group": (GROUPS + RAISED, "ValueError: batch is wrong"),
    "a message that begins on the next line": (NEXT_LINE, 'RuntimeError: Error(s) in loading state_dict for SiT: Missing key(s) in state_dict: "x_embedder.weight".'),
    "no message": ("Traceback (most recent call last):\n  File \"x\", line 1\nMemoryError\nthe next line\n", "MemoryError"),
    "abort": (ABORT, "what(): CUDA error: an illegal memory access was encountered"),
    "crash": ('Fatal Python error: Segmentation fault\n\nCurrent thread 0x7f (most recent call first):\n  File "x", line 1\n', "Fatal Python error: Segmentation fault"),
    "SystemExit": ("loading\nno such sheet; look at config/\n", "no such sheet; look at config/"),
    "killed": ("sample 3/48\nreals: the process that ran this command is gone (killed or out of memory)\n", "reals: the process that ran this command is gone (killed or out of memory)"),
    "killed by SLURM": ("sample 3/48\nslurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed.\n", "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed."),
    "several nodes": ("0: Traceback (most recent call last):\n0:   File \"x\", line 1\n0: ValueError: no\n1: \n", "ValueError: no"),
    "raised from another": (FROM, "RuntimeError: the cache cannot be read (from OSError: [Errno 5] Input/output error)"),
    "a compiler's error": (CPP, "torch._inductor.exc.InductorError: CppCompileError: C++ compile error /tmp/x.cpp:2:10: fatal error: Python.h: No such file or directory"),
    "warnings after it": (RAISED + LEAKED, "ValueError: batch is wrong"),
    "warnings after what we said": (MEMORY + LEAKED, MEMORY.splitlines()[-1]),
    "ignored after it": (RAISED + "Exception ignored in atexit callback: <function f>\n" + DURING.splitlines(True)[0] + "KeyError: 3\n", "ValueError: batch is wrong"),
    "srun after what we said": ("1: reals stage transformer: batch 1 on 2 processes\n" + SRUN, "reals stage transformer: batch 1 on 2 processes"),
    "out of memory, said by srun": ("sit: 3/48\nsrun: error: node3: task 1: Out Of Memory\n" + SRUN, "srun: error: node3: task 1: Out Of Memory"),
    "out of memory behind an exception": (RAISED + "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.\n", "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0."),
    "tracebacks of two processes in one": (MIXED, "ValueError: one"),
    "a full /dev/shm": ("sit: 3/48\n" + SHELL.format(what="Bus error"), "a process was ended by SIGBUS (a full /dev/shm, or disk behind mapped memory)"),
    "killed after it went on": (RAISED + "sit: 3/48\n" + SHELL.format(what="Killed"), "a process was ended by SIGKILL (out of memory, or by hand)"),
    "a crash at its end": (RAISED + SHELL.format(what="Aborted"), "ValueError: batch is wrong"),
    "progress with carriage returns": ("\rsample: 10%|# | 1/10\rsample: 20%|## | 2/10" + RAISED, "ValueError: batch is wrong"),
    "in colour": ("\x1b[31mTraceback (most recent call last):\x1b[0m\n  File \"x\"\n\x1b[1mValueError: no\x1b[0m\n", "ValueError: no"),
    "a model's several errors": (RAISED.replace("ValueError: batch is wrong", "pydantic_core.ValidationError: 1 validation error for Scale\nname\n  Field required"), "pydantic_core.ValidationError: 1 validation error for Scale name Field required"),
    "a module that is not there": ('Lmod has detected the following error: The following module(s) are unknown: "cuda/99"\n\nPlease check the spelling\n', 'Lmod has detected the following error: The following module(s) are unknown: "cuda/99"'),
    "an error that ended nothing": (IGNORED, "sample 12/48"),
    "a notice alone": ("reals stage data: ignored WORLD_SIZE=2: not a launcher's\nsample 3/48\n", "sample 3/48"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_line_is_the_cause(name):
    log, expected = CASES[name]
    assert cause(log) == expected


@pytest.mark.slow
def test_a_log_that_says_nothing_and_one_that_says_too_much():
    assert cause("") is None and cause("\n \n") is None
    assert len(cause("x" * 10_000) or "") == LONGEST + len(" ...")
