"""What a call of the platform may fail with when it is the platform that fails."""

import modal.exception
from grpclib.exceptions import GRPCError, StreamTerminatedError

PLATFORM_ERRORS = (modal.exception.Error, GRPCError, StreamTerminatedError, OSError, TimeoutError)
