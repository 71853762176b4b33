"""What a command's `add` is given: the place where `reals` keeps its subcommands."""

import argparse
from typing import TypeAlias

Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
