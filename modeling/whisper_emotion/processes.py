"""Processes of `accelerate launch` or `torchrun`: all share the encoding, the main process trains the head."""

import os

from accelerate import PartialState
from accelerate.state import AcceleratorState

GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # set by the launcher


def leave_group() -> bool:
    """Dissolve the process group once the frames are stored; only the main process goes on.

    The main process then trains exactly what a single process would train, bit for bit. Training a head is too quick
    to share.

    Returns:
        Whether this is the main process; the others should end.
    """
    state = PartialState()
    main = state.is_main_process
    if state.num_processes > 1:
        state.wait_for_everyone()
        state.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)
        forget_group()
    return main


def forget_group() -> None:
    """Remove the launcher's variables, so that libraries see a single process."""
    for name in GROUP:
        os.environ.pop(name, None)
