"""The processes of `accelerate launch` or `torchrun`: they share what is long, and one of them does what is short."""

import os

from accelerate import PartialState
from accelerate.state import AcceleratorState

GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what makes a process one of several


def leave_group() -> bool:
    """Dissolve the group once the frames are stored, since a head is trained in no time: the main process goes on.

    It is then a process like any other, so it trains what one that was alone from the start trains, bit for bit.

    Returns:
        Whether this is the main process; the others have nothing left to do.
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
    """Make libraries take this process for one that is alone."""
    for name in GROUP:
        os.environ.pop(name, None)
