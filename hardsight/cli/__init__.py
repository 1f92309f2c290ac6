"""The ``hardsight`` command. A command parses its flags, calls one function of the library and prints.

``_boundary`` turns exceptions into sentences and exit codes, ``_flags`` holds the flags that commands
share, ``_show`` what they print; every other module is one command.
"""

from hardsight.cli._boundary import main, run

__all__ = ["main", "run"]
