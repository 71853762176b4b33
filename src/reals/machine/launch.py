"""torchrun for `reals` with the exit codes kept: `python -m reals.machine.launch --nproc-per-node 8 stage transformer ID STEP`.

Takes torchrun's options and starts `python -m reals ...` in each process. torchrun itself turns every failure into exit
code 1, a scheduler's warning into a traceback, and dies of SIGUSR1 without telling its processes.
"""

import os
import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousConnectionError

from reals.machine.signals import EXIT_DONE, EXIT_PEER, EXIT_STOPPED, GO_ON
from reals.machine.world import LAUNCHER


def worst(codes: list[int]) -> int:
    """One exit code of many: a mistake (2) or bug (1) before a lost process (killed ones are negative) before a stop."""
    own = [code for code in codes if 0 < code < EXIT_STOPPED]
    return max(own) if own else EXIT_PEER if any(code != EXIT_STOPPED for code in codes) else EXIT_STOPPED


def main(arguments: list[str]) -> int:
    options = run.parse_args(arguments)
    options.module, options.training_script_args = True, [options.training_script, *options.training_script_args]
    options.training_script = "reals"
    options.signals_to_handle = "SIGTERM,SIGINT,SIGUSR1"
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        run.run(options)
    except ChildFailedError as error:
        return worst([failure.exitcode for failure in error.failures.values()])
    except SignalException:
        return EXIT_STOPPED  # passed on to the processes, which had 30 seconds to save
    except RendezvousConnectionError:
        print(f"reals.machine.launch: the node that the others meet at is gone; {GO_ON}", file=sys.stderr)
        return EXIT_PEER
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
