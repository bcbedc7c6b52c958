"""Trains with each regularizer and reports which ones help.

    python -m experiments.main --config=configs/pos_tagging.py

Each file in `configs` asks a question, and its header names the command. `--config.FIELD=VALUE`
overrides a field of the config. `--workdir` is the folder for results; the default is
runs/NAME_OF_THE_CONFIG. If a config has conditions, each trains in a folder of its own there, and a
report compares them. `--resume` continues a run that was stopped or killed, and gives the same
results as without the break. `--profile` writes a trace of `config.steps_per_call` steps, or of an
epoch if that is 0. A config is a Python file that this program runs, so use only files that you
trust.

`--distributed` trains with other processes, which run the same command. Slurm, Cloud TPU and other
clusters that JAX knows need no more; elsewhere, `--coordinator=HOST:PORT`, `--num_processes` and
`--process_id` describe the processes. The first one writes and prints.
"""

import sys
import traceback

from .interrupt import INTERRUPTED, leave, leave_at_ctrl_c

if __name__ == "__main__":
    leave_at_ctrl_c("Interrupted while nothing was training.")  # the imports below take seconds

from typing import NoReturn

from . import experiment, processes, settings, study
from .errors import InputError, say
from .output import Console
from .workdir import Workdir


def main(argv: list[str]) -> int:
    """Runs an experiment and returns the exit code: 0, 1 for an error, 130 for Ctrl-C."""
    try:
        console = Console()
        if "--help" in argv:
            console.print(f"{__doc__}\n{settings.define_flags().get_help()}")
            return 0
        config, options = settings.parse(argv)
        conditions = settings.conditions(config)
        if options.cluster is not None:
            processes.connect(options.cluster)
            console.quiet = not processes.is_first()
        workdir = Workdir(options.workdir)
        with workdir.locked():
            if conditions:
                code = study.run(config, conditions, options, workdir, console)
            else:
                code, _ = experiment.run(config, options, workdir, console)
        if code == 0:
            processes.disconnect()
        return code
    except (InputError, OSError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("Interrupted while nothing was training.")
        return INTERRUPTED


def run_and_leave(argv: list[str]) -> NoReturn:
    """Runs an experiment and ends the program, also after an exception that is a fault of ours.

    Python's own end would wait there for the other processes, and they for this one.
    """
    try:
        code = main(argv)
    except Exception:
        traceback.print_exc()
        code = 1
    leave(code)


if __name__ == "__main__":
    run_and_leave(sys.argv)
