"""One run per output: the lock of a run's folder.

On a local disk the lock is a flock on RUN/run.lock, which the kernel lets go when its process ends, even by kill -9.

On S3 it is the object RUN/run.lock, written with If-None-Match: * and written again every HEARTBEAT seconds with
If-Match. A lock that has not been written for STALE seconds (by the server's clock) belongs to a run that is gone,
and is taken over with If-Match, so that only one of several can; so is, at once, the lock of a process of this very
machine that is not alive. Servers that ignore such conditions are recognised when the lock is taken; there it is only
advisory (written, and after SETTLE seconds read back), which a warning says.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from pipeline.storage import flock
from pipeline.storage.backends import writable
from pipeline.storage.errors import StorageError, from_os_error
from pipeline.storage.uri import is_local, join, local_path

NAME = "run.lock"
HEARTBEAT = 10.0
STALE = 60.0
SETTLE = 2.0

_log = logging.getLogger(__name__)
