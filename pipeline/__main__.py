"""`python -m pipeline ...`"""

import gc
import sys

from pipeline.cli import main

status = main()
# Python would look through all modules for garbage once more, which takes longer than to leave them to the system.
gc.freeze()
sys.exit(status)
